package comingfrom

import (
	"context"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/bellwether-go/cache"
)

// [a token source]
type fleetToken struct {
	tokens *cache.Cache[*oauth2.Token] // with Options.Redis and Secrets
	config *clientcredentials.Config
}

// Token is that of oauth2.TokenSource: the whole fleet has one token, and one process asks for the next.
func (f fleetToken) Token() (*oauth2.Token, error) {
	return f.tokens.GetOrLoad(context.Background(), f.config.ClientID, func(ctx context.Context, _ string) (*oauth2.Token, error) {
		token, err := f.config.Token(ctx)
		if err == nil && !token.Expiry.IsZero() {
			cache.LoadFrom(ctx).SetTTL(time.Until(token.Expiry) - time.Minute)
		}
		return token, err
	})
}

// [end]
