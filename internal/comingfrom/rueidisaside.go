package comingfrom

import (
	"context"
	"encoding/json"
	"time"

	"github.com/redis/rueidis"
	"github.com/redis/rueidis/rueidisaside"
)

func encode(u *User) (string, error) {
	b, err := json.Marshal(u)
	return string(b), err
}

func decode(s string) (*User, error) {
	var u User
	err := json.Unmarshal([]byte(s), &u)
	return &u, err
}

func aside(address string, db *database) (*service, error) {
	// [before rueidisaside]
	client, err := rueidisaside.NewClient(rueidisaside.ClientOption{
		ClientOption: rueidis.ClientOption{InitAddress: []string{address}},
	})
	if err != nil {
		return nil, err
	}
	users := rueidisaside.NewTypedCacheAsideClient(client, encode, decode) // with encoding/json
	get := func(ctx context.Context, id string) (*User, error) {
		return users.Get(ctx, 10*time.Minute, "user:"+id, func(ctx context.Context, _ string) (*User, error) {
			u, err := db.User(ctx, id)
			return &u, err
		})
	}
	changed := func(ctx context.Context, id string) error {
		return users.Del(ctx, "user:"+id)
	}
	// [end]
	value := func(ctx context.Context, id string) (User, error) {
		u, err := get(ctx, id)
		if err != nil {
			return User{}, err
		}
		return *u, nil
	}
	return &service{value, changed, client.Close}, nil
}
