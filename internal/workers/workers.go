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

// Run runs n workers that have the same job, and returns their reports. They end with the test.
func Run[R any](t realredis.T, n int, job any) []R {
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
	for _, w := range workers {
		if _, err := io.WriteString(w.in, "go\n"); err != nil {
			t.Fatal(err)
		}
	}
	reports := make([]R, n)
	var all sync.WaitGroup
	for i, w := range workers {
		all.Go(func() {
			if err := json.NewDecoder(w.out).Decode(&reports[i]); err != nil {
				t.Error(err)
			}
			_ = w.in.Close()
		})
	}
	all.Wait()
	return reports
}
