package main

import (
	"embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
)

//go:embed chart.html report.html picture.svg
var templates embed.FS

// conditions are what a report has to say of how it was made.
func (c *config) conditions(redis string) [][2]string {
	all := [][2]string{
		{"processes", fmt.Sprint(c.Processes)},
		{"callers", fmt.Sprintf("%d in each process, all at once", max(c.Callers, c.Keys))},
		{"keys", fmt.Sprintf("%d, in no cache when it begins", c.Keys)},
		{"a load takes", c.Load.String()},
	}
	if c.MaxLoads > 0 {
		all = append(all, [2]string{"loads at a time", fmt.Sprintf("%d at most, with this package", c.MaxLoads)})
	}
	if c.Kill {
		all = append(all, [2]string{"killed", "with this package: the process that holds the lease, in the middle of its load"})
	}
	all = append(all,
		[2]string{"Redis", redis},
		[2]string{"machine", fmt.Sprintf("%s/%s, %d processors, %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version())})
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				all = append(all, [2]string{"revision", s.Value[:min(len(s.Value), 12)]})
			}
		}
	}
	return append(all, [2]string{"when", time.Now().UTC().Format("2006-01-02 15:04 UTC")})
}

// html writes a page that needs nothing from elsewhere.
func (r *report) html(w io.Writer, conditions [][2]string) error {
	return r.draw(w, "report.html", struct {
		*report
		Charts     []chart
		Conditions [][2]string
	}{r, r.charts(), conditions})
}

// picture writes the charts alone, as SVG.
func (r *report) picture(w io.Writer, conditions string) error {
	return r.draw(w, "picture.svg", struct {
		Charts     []chart
		Conditions string
		Height     int
	}{r.charts(), conditions, pictureTop + pictureStep*len(r.Modes) - 20})
}

func (r *report) draw(w io.Writer, name string, data any) error {
	t := template.Must(template.New(name).Funcs(template.FuncMap{
		"name": func(m mode) string { return names[m.Mode] },
		"ms":   func(f *float64) string { return fmt.Sprintf("%.0f", *f) },
		"top":  func(i int) int { return pictureTop + pictureStep*i },
	}).ParseFS(templates, "chart.html", name))
	return t.Execute(w, data)
}

// charts are those of the modes, with the same scales.
func (r *report) charts() (all []chart) {
	var longest time.Duration
	most := 1
	for _, m := range r.Modes {
		longest, most = max(longest, m.took()), max(most, m.PeakLoads)
	}
	for i := range r.Modes {
		all = append(all, newChart(&r.Modes[i], longest, most))
	}
	return all
}

// chart is the loads at the origin over time, drawn with the same scales in each mode.
type chart struct {
	Mode  mode
	Line  string // the points of an SVG polyline
	Area  string // of a polygon
	Rows  []mark // of the vertical scale
	Times []mark
	PeakX float64 // where the most were
	PeakY float64
	Side  string // of it on which there is room for a text
}

type mark struct {
	At   float64
	Text string
}

// Of the drawing.
const (
	chartLeft, chartRight = 52.0, 704.0
	chartTop, chartBase   = 16.0, 136.0
	chartSteps            = 600

	pictureTop, pictureStep = 56, 184
)

func newChart(m *mode, longest time.Duration, most int) chart {
	c := chart{Mode: *m, PeakX: chartLeft, PeakY: chartBase, Side: "start"}
	top := nice(float64(most))
	x := func(at time.Duration) float64 {
		return chartLeft + (chartRight-chartLeft)*float64(at)/float64(max(longest, 1))
	}
	y := func(n float64) float64 { return chartBase - (chartBase-chartTop)*n/top }
	step := m.took() / time.Duration(max(len(m.UnderWay), 1))
	var line strings.Builder
	peak, last := 0, 0
	for i, n := range m.UnderWay {
		at := x(time.Duration(i) * step)
		if n != last || i == 0 {
			fmt.Fprintf(&line, "%.1f,%.1f %.1f,%.1f ", at, y(float64(last)), at, y(float64(n)))
		}
		if n > peak {
			peak, c.PeakX, c.PeakY = n, at, y(float64(n))
		}
		last = n
	}
	if len(m.UnderWay) > 0 {
		fmt.Fprintf(&line, "%.1f,%.1f", x(m.took()), y(float64(last)))
	}
	if c.PeakX > (chartLeft+chartRight)/2 {
		c.Side = "end"
	}
	c.Line = strings.TrimSpace(line.String())
	c.Area = fmt.Sprintf("%.1f,%.1f %s %.1f,%.1f", chartLeft, chartBase, c.Line, x(m.took()), chartBase)
	for _, share := range []float64{0, 0.5, 1} {
		c.Rows = append(c.Rows, mark{y(share * top), fmt.Sprintf("%g", share*top)})
	}
	for i := range 5 {
		at := longest * time.Duration(i) / 4
		c.Times = append(c.Times, mark{x(at), fmt.Sprintf("%.2f s", at.Seconds())})
	}
	return c
}

// nice is the next number above that begins with 1, 2 or 5, and is even.
func nice(n float64) float64 {
	unit := math.Pow(10, math.Floor(math.Log10(n)))
	for _, f := range []float64{1, 2, 5, 10} {
		if v := f * unit; v >= n && v >= 2 && math.Mod(v, 2) == 0 {
			return v
		}
	}
	return 10 * unit
}
