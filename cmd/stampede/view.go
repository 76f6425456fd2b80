package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// view shows what happens meanwhile: on a terminal a row for each mode, with the loads at the origin over time; elsewhere lines, when
// there is something to say.
type view struct {
	w        io.Writer
	terminal bool
	rows     *mpb.Progress
	bars     []*mpb.Bar // of all rows
	calls    int        // of a mode: what the height of a row stands for
}

// row is that of one mode.
type row struct {
	mode string
	view *view
	bar  *mpb.Bar // nil without a terminal

	mu     sync.Mutex
	text   string  // the last that was said of the mode; guarded by mu
	origin *origin // whose loads are shown; nil before and after the run; guarded by mu
	curve  string  // of the run, once it is over; guarded by mu
}

// newView may be told that w is a terminal: one that is none of ours cannot be seen to be.
func newView(w io.Writer, terminal bool, calls int) *view {
	v := &view{w: w, terminal: terminal, calls: calls}
	if f, ok := w.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			v.terminal = true
		}
	}
	if v.terminal {
		v.rows = mpb.New(mpb.WithOutput(w), mpb.WithRefreshRate(100*time.Millisecond), mpb.WithAutoRefresh())
	}
	return v
}

// begin starts a row.
func (v *view) begin(mode string) (*row, error) {
	r := &row{mode: mode, view: v}
	if !v.terminal {
		return r, nil
	}
	var err error
	r.bar, err = v.rows.Add(1, mpb.BarFillerFunc(func(w io.Writer, s decor.Statistics) error {
		_, err := io.WriteString(w, r.draw(min(s.AvailableWidth, 60)))
		return err
	}),
		mpb.PrependDecorators(decor.Name(fmt.Sprintf("%14s  ", names[mode]))),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return "  " + r.status() })))
	if err != nil {
		return nil, err
	}
	v.bars = append(v.bars, r.bar)
	return r, nil
}

// end waits until all is drawn, also of rows that have not come to their end.
func (v *view) end() {
	if !v.terminal {
		return
	}
	for _, bar := range v.bars {
		bar.Abort(false)
	}
	v.rows.Wait()
}

// note says something that stays.
func (v *view) note(format string, args ...any) {
	w := v.w
	if v.terminal {
		w = v.rows
	}
	fmt.Fprintf(w, format+"\n", args...)
}

// show replaces what is said of the mode.
func (r *row) show(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.text = fmt.Sprintf(format, args...)
}

// run shows what the origin does, until end.
func (r *row) run(o *origin) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.text, r.origin = "", o
}

// end says what came of the mode.
func (r *row) end(format string, args ...any) {
	if r.bar == nil {
		r.view.note("%-12s  %s", r.mode, fmt.Sprintf(format, args...))
		return
	}
	r.mu.Lock()
	r.text, r.curve = fmt.Sprintf(format, args...), r.sparkline(60)
	r.origin = nil
	r.mu.Unlock()
	r.bar.SetTotal(-1, true)
}

func (r *row) status() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.origin == nil {
		return r.text
	}
	loads, now, _ := r.origin.counts()
	text := fmt.Sprintf("%d loads, %d under way", loads, now)
	if r.text != "" {
		text += ", " + r.text
	}
	return text
}

func (r *row) draw(width int) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := r.curve
	if r.origin != nil {
		text = r.sparkline(width)
	}
	if n := len([]rune(text)); n > width {
		text = string([]rune(text)[:max(width, 0)])
	} else {
		text += strings.Repeat(" ", width-n)
	}
	return text
}

// sparkline is called with mu held.
func (r *row) sparkline(width int) string {
	if r.origin == nil || width <= 0 {
		return ""
	}
	levels := []rune(" ▁▂▃▄▅▆▇█")
	most, _ := r.origin.history(width)
	line := make([]rune, width)
	for i, n := range most {
		line[i] = levels[min((n*(len(levels)-1)+r.view.calls-1)/max(r.view.calls, 1), len(levels)-1)]
	}
	return string(line)
}
