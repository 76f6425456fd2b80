package comingfrom

import (
	"context"
	"time"

	"github.com/maypok86/otter/v2"
)

func inOtter(db *database) (*service, error) {
	// [before otter]
	users, err := otter.New(&otter.Options[string, User]{
		MaximumSize:       10_000,
		ExpiryCalculator:  otter.ExpiryWriting[string, User](10 * time.Minute),
		RefreshCalculator: otter.RefreshWriting[string, User](9 * time.Minute),
	})
	if err != nil {
		return nil, err
	}
	get := func(ctx context.Context, id string) (User, error) {
		return users.Get(ctx, id, otter.LoaderFunc[string, User](db.User))
	}
	changed := func(id string) {
		users.Invalidate(id)
	}
	// [end]
	return &service{get, local(changed), func() { users.StopAllGoroutines() }}, nil
}
