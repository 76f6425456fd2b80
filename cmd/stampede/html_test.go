package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

// The page is well-formed, needs nothing from elsewhere, and shows every mode with its numbers and how they were made.
func TestHTML(t *testing.T) {
	recovery := 1234.0
	rep := report{RecoveryMS: &recovery}
	for i, name := range modes {
		rep.Modes = append(rep.Modes, mode{
			Mode: name, Loads: 1600 - i, PeakLoads: 3 + i, P50MS: 10, P99MS: 20, MaxMS: 30, RedisCommands: 40, Calls: 1700 + i, TookMS: 400,
			UnderWay: []int{0, 3 + i, 1, 0},
		})
	}
	cfg := config{Processes: 8, Callers: 200, Keys: 300, Load: 300 * time.Millisecond, MaxLoads: 7, Kill: true}
	var page bytes.Buffer
	if err := rep.html(&page, cfg.conditions("<embedded>")); err != nil {
		t.Fatal(err)
	}
	text := page.String()
	for _, want := range []string{
		"no protection", "singleflight", "this package", "1600 loads", "1598 loads", "1234 ms later", "5 at a time", "&lt;embedded&gt;", "300 in each process", "7 at most",
		"the process that holds the lease", `<polyline class="loads"`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing", want)
		}
	}
	for _, not := range []string{"http://", "https://", "<script", "src=", "url(", "NaN", "ZgotmplZ", "%!"} {
		if strings.Contains(text, not) {
			t.Errorf("%q is there", not)
		}
	}
	d := xml.NewDecoder(strings.NewReader(strings.Replace(text, "<!doctype html>", "", 1)))
	d.AutoClose, d.Entity, d.Strict = xml.HTMLAutoClose, xml.HTMLEntity, false
	wellFormed(t, d)

	var picture bytes.Buffer
	if err := rep.picture(&picture, cfg.scene()); err != nil {
		t.Fatal(err)
	}
	wellFormed(t, xml.NewDecoder(&picture))
}

func wellFormed(t *testing.T, d *xml.Decoder) {
	t.Helper()
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// Each chart has the same scales: what is half as long and half as high is drawn so.
func TestChart(t *testing.T) {
	c := newChart(&mode{UnderWay: []int{0, 5, 10, 0}, TookMS: 1000}, 2*time.Second, 20)
	const width, height = chartRight - chartLeft, chartBase - chartTop
	at := func(x, y float64) string { return fmt.Sprintf("%.1f,%.1f", chartLeft+width*x, chartBase-height*y) }
	want := []string{
		at(0, 0), at(0, 0), at(0.125, 0), at(0.125, 0.25), at(0.25, 0.25), at(0.25, 0.5), at(0.375, 0.5), at(0.375, 0), at(0.5, 0),
	}
	if c.Line != strings.Join(want, " ") {
		t.Errorf("got  %s\nwant %s", c.Line, strings.Join(want, " "))
	}
	if x, y := chartLeft+width*0.25, chartBase-height*0.5; c.PeakX != x || c.PeakY != y || c.Side != "start" {
		t.Errorf("peak at %v, %v, %s", c.PeakX, c.PeakY, c.Side)
	}
	if newChart(&mode{}, 0, 1).Line != "" {
		t.Error("a line without loads")
	}
	for n, want := range map[float64]float64{1: 2, 2: 2, 3: 10, 8: 10, 11: 20, 21: 50, 1600: 2000, 9999: 10000} {
		if got := nice(n); got != want {
			t.Errorf("nice(%v) = %v, want %v", n, got, want)
		}
	}
}

// What the origin remembers of its loads: the most at a time in each part, also where nothing changes in one.
func TestHistory(t *testing.T) {
	o := origin{began: time.Now().Add(-time.Hour), curve: []level{
		{0, 1}, {time.Minute, 2}, {2 * time.Minute, 1}, {31 * time.Minute, 3}, {32 * time.Minute, 0},
	}}
	most, took := o.history(4)
	if took < time.Hour || fmt.Sprint(most) != "[2 1 3 0]" {
		t.Errorf("%v in %v", most, took)
	}
	if most, _ = o.history(60); most[1] != 2 || most[20] != 1 || most[31] != 3 || most[59] != 0 {
		t.Errorf("%v", most)
	}
}
