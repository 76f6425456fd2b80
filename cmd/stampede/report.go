package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
)

// report is what -json prints.
type report struct {
	Modes      []mode   `json:"modes"`
	RecoveryMS *float64 `json:"recovery_ms,omitempty"`
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
}

// names are what the table calls the modes.
var names = map[string]string{"none": "no protection", "singleflight": "singleflight", "cache": "this package"}

// table prints the report for people.
func (r *report) table(w io.Writer, cfg config) error {
	fmt.Fprintf(w, "%d processes x %d callers, %d cold key(s), a load takes %v\n\n",
		cfg.Processes, max(cfg.Callers, cfg.Keys), cfg.Keys, cfg.Load)
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

// line is a line of progress. On a terminal it is rewritten in place; elsewhere only notes are printed.
type line struct {
	w        io.Writer
	terminal bool

	mu   sync.Mutex
	last int // length of what is on the line; guarded by mu
}

func newLine(w io.Writer) *line {
	l := &line{w: w}
	if f, ok := w.(*os.File); ok {
		if info, err := f.Stat(); err == nil {
			l.terminal = info.Mode()&os.ModeCharDevice != 0
		}
	}
	return l
}

// show replaces what is on the line.
func (l *line) show(format string, args ...any) {
	if l.terminal {
		l.put(fmt.Sprintf(format, args...), "")
	}
}

// note leaves a line behind.
func (l *line) note(format string, args ...any) { l.put(fmt.Sprintf(format, args...), "\n") }

// end leaves the cursor on an empty line.
func (l *line) end() { l.show("") }

func (l *line) put(text, end string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.terminal {
		fmt.Fprint(l.w, text, end)
		return
	}
	fmt.Fprint(l.w, "\r", strings.Repeat(" ", l.last), "\r", text, end)
	if l.last = len(text); end != "" {
		l.last = 0
	}
}
