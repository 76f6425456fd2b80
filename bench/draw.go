package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
)

// The picture of a curve: both axes are logarithmic.

const (
	width, height = 720.0, 400.0
	left, top     = 70.0, 40.0
	right, bottom = 30.0, 110.0
)

var colours = []string{"#1b6ca8", "#c8553d", "#3a7d44", "#8a5a9e"}

// scale maps values between two powers of ten to a range of pixels.
type scale struct{ low, high, from, to float64 }

func newScale(values []float64, from, to float64) scale {
	low, high := math.Inf(1), math.Inf(-1)
	for _, v := range values {
		if v > 0 {
			low, high = min(low, math.Log10(v)), max(high, math.Log10(v))
		}
	}
	low, high = math.Floor(low), math.Ceil(high)
	if low >= high {
		high = low + 1
	}
	return scale{low, high, from, to}
}

func (s scale) at(v float64) float64 {
	if v <= 0 {
		return s.from
	}
	return s.from + (math.Log10(v)-s.low)/(s.high-s.low)*(s.to-s.from)
}

// draw writes the picture to a file in dir.
func (c *curve) draw(dir string) error {
	var all []float64
	for _, line := range c.values {
		all = append(all, line...)
	}
	x, y := newScale(c.at, left, width-right), newScale(all, height-bottom, top)
	var b strings.Builder
	text := func(x, y float64, anchor, s string) {
		fmt.Fprintf(&b, `<text x="%.0f" y="%.0f" text-anchor="%s">%s</text>`+"\n", x, y, anchor, s)
	}
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%.0f" height="%.0f" fill="white"/>`+"\n", width, height)
	text(width/2, 20, "middle", c.title)
	for p := x.low; p <= x.high; p++ {
		at := x.at(math.Pow(10, p))
		fmt.Fprintf(&b, `<path d="M%.0f %.0fV%.0f" stroke="#ddd"/>`+"\n", at, top, height-bottom)
		text(at, height-bottom+18, "middle", fmt.Sprintf("%.0f", math.Pow(10, p)))
	}
	for p := y.low; p <= y.high; p++ {
		at := y.at(math.Pow(10, p))
		fmt.Fprintf(&b, `<path d="M%.0f %.0fH%.0f" stroke="#ddd"/>`+"\n", left, at, width-right)
		text(left-8, at+4, "end", fmt.Sprintf("%g", math.Pow(10, p)))
	}
	text(width-right, height-bottom+34, "end", c.x)
	text(8, top-8, "start", c.y)
	for i, line := range c.values {
		var path strings.Builder
		for n, v := range line {
			fmt.Fprintf(&path, "%c%.1f %.1f", "ML"[min(n, 1)], x.at(c.at[n]), y.at(v))
		}
		fmt.Fprintf(&b, `<path d="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", path.String(), colours[i])
		at := height - bottom + 50 + 15*float64(i)
		fmt.Fprintf(&b, `<path d="M%.0f %.0fh20" stroke="%s" stroke-width="2"/>`+"\n", left, at-4, colours[i])
		text(left+26, at, "start", c.lines[i])
	}
	b.WriteString("</svg>\n")
	return os.WriteFile(filepath.Join(dir, c.file+".svg"), []byte(b.String()), 0o644)
}
