// Package workers lets a program, or a test binary, run itself several times, as processes that begin together and report what
// came of it.
package workers

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"

	"github.com/bellwether-go/cache/internal/realredis"
)

// variable holds a worker's job, and makes the test binary a worker.
const variable = "CACHE_WORKER"

// Main is what main or TestMain calls: it runs m, a *testing.M for instance, or, in a worker, work.
func Main[J any](m interface{ Run() (code int) }, work func(j J) error) {
	spec := os.Getenv(variable)
	if spec == "" {
		os.Exit(m.Run())
	}
	var j J
	err := json.Unmarshal([]byte(spec), &j)
	if err == nil {
		err = work(j)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Ready says that a worker is ready, and returns when all are. The worker ends with report, which returns when its report has
// been read.
func Ready() (report func(any) error, err error) {
	in := bufio.NewReader(os.Stdin)
	fmt.Println("ready")
	_, err = in.ReadString('\n')
	return func(r any) error {
		if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
			return err
		}
		_, err := in.WriteTo(io.Discard)
		return err
	}, err
}

// Run runs n workers that have the same job, and returns their reports. They end with the test. Of moments, the first is
// called when all are ready, the second when all have reported, before they end.
func Run[R any](t realredis.T, n int, job any, moments ...func()) []R {
	t.Helper()
	reports, errs := Some[R](t, n, job, moments...)
	for _, err := range errs {
		t.Error(err)
	}
	return reports
}

// Some is Run for workers of which some may end without a report. It returns the reports of the others, and an error for each
// of those.
func Some[R any](t realredis.T, n int, job any, moments ...func()) (reports []R, errs []error) {
	t.Helper()
	spec, err := json.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	type worker struct {
		in  io.WriteCloser
		out *bufio.Reader
	}
	var workers []worker
	for range n {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), variable+"="+string(spec))
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		ended, err := realredis.Launch(cmd)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			<-ended
		})
		workers = append(workers, worker{in, bufio.NewReader(out)})
	}
	for _, w := range workers {
		if _, err := w.out.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	if len(moments) > 0 {
		moments[0]()
	}
	for _, w := range workers {
		if _, err := io.WriteString(w.in, "go\n"); err != nil {
			t.Fatal(err)
		}
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, w := range workers {
		all.Go(func() {
			var r R
			err := json.NewDecoder(w.out).Decode(&r)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
			} else {
				reports = append(reports, r)
			}
		})
	}
	all.Wait()
	if len(moments) > 1 {
		moments[1]()
	}
	for _, w := range workers {
		_ = w.in.Close()
	}
	return reports, errs
}
