// Package host tells who this process is.
package host

import (
	"fmt"
	"os"
)

// Process returns a name for this process by which people can find it: that of the host, cut to 80 bytes, and the process ID.
func Process() string {
	name, err := os.Hostname()
	if err != nil || name == "" {
		name = "process"
	}
	return fmt.Sprintf("%.80s:%d", name, os.Getpid())
}
