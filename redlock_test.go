package cache

import (
	"context"
	"testing"
	"time"

	"github.com/bellwether-go/cache/internal/record"
)

func TestZZ(t *testing.T) {
	_ = context.Background
	_ = time.Now
	_ = record.Owner{}
}
