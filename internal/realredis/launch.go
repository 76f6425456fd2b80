package realredis

import (
	"os/exec"
	"runtime"
)

// Launch starts a process, and closes ended when it has ended. On Linux it does not outlive this one, however this one
// ends: a test that is killed, or runs into its time limit, cleans nothing up.
func Launch(cmd *exec.Cmd) (ended <-chan struct{}, err error) {
	bind(cmd)
	started, over := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread() // the kernel takes the end of the thread that has started a process for that of its parent
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
		close(over)
	}()
	return over, <-started
}
