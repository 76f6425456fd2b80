package main

import (
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"
	"time"
)

// report is what -json prints.
type report struct {
	Modes      []mode   `json:"modes"`
	RecoveryMS *float64 `json:"recovery_ms,omitempty"`

	server string // what Redis it was
}

type mode struct {
	Mode          string  `json:"mode"`
	Loads         int     `json:"loads"`
	PeakLoads     int     `json:"peak_loads"`
	P50MS         float64 `json:"p50_ms"`
	P99MS         float64 `json:"p99_ms"`
	MaxMS         float64 `json:"max_ms"`
	RedisCommands int64   `json:"redis_commands"`
	Errors        int     `json:"errors"`
	Calls         int     `json:"calls"`

	TookMS   float64 `json:"took_ms"`
	UnderWay []int   `json:"under_way"` // the most loads at a time, in each of as many equal parts of it
}

func (m *mode) took() time.Duration { return time.Duration(m.TookMS * float64(time.Millisecond)) }

// names are what the table calls the modes.
var names = map[string]string{"none": "no protection", "singleflight": "singleflight", "cache": "this package"}

// table prints the report for people.
func (r *report) table(w io.Writer, cfg config) error {
	fmt.Fprintf(w, "%s\n\n", cfg.scene())
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "protection\tloads\tpeak at origin\tp50 ms\tp99 ms\tmax ms\tRedis commands\terrors\tcalls\t")
	for _, m := range r.Modes {
		fmt.Fprintf(t, "%s\t%d\t%d\t%.0f\t%.0f\t%.0f\t%d\t%d\t%d\t\n",
			names[m.Mode], m.Loads, m.PeakLoads, m.P50MS, m.P99MS, m.MaxMS, m.RedisCommands, m.Errors, m.Calls)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w, "\nloads at the origin, by powers of ten")
	for _, m := range r.Modes {
		bar := 0
		if m.Loads > 0 {
			bar = 1 + int(math.Round(12*math.Log10(float64(m.Loads))))
		}
		fmt.Fprintf(w, "%14s  %s %d\n", names[m.Mode], strings.Repeat("#", bar), m.Loads)
	}
	if r.RecoveryMS != nil {
		fmt.Fprintf(w, "\nthe lease holder was killed in mid-load; every other caller had its value %.0f ms later\n", *r.RecoveryMS)
	}
	return nil
}
