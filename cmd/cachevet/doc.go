// Command cachevet finds mistakes in the use of github.com/bellwether-go/cache that the compiler cannot see, and that tests seldom do: what
// they break is another caller, at another time.
//
//	go install github.com/bellwether-go/cache/cmd/cachevet@latest
//
//	go vet -vettool=$(which cachevet) ./...   # beside a build, with its cache
//	cachevet ./...                            # by itself; -fix applies the fixes, -fix -diff shows them
//
// -loaderctx, -loadercapture and -cachedmutation run only these checks, and with =false all but these. The exit code is 0
// if nothing was found. cachevet help has more, cachevet help NAME more about a check.
//
// # loaderctx
//
// A loader that uses the context of the call in which it is written:
//
//	u, err := users.GetOrLoad(ctx, id, func(_ context.Context, id string) (User, error) {
//		return db.User(ctx, id) // ctx of whoever came first
//	})
//
// One load serves many callers, and outlives them: the cache gives it a context that has the values of the call that began
// it, and not its end. With the caller's context the load dies with the first caller, and all others, who have more time, get
// the error. It is an error too that GetOrLoad cannot recognize a loader that asks for its own key, and that
// Options.LoadTimeout ends nothing.
//
// Found are variables of type context.Context that are declared outside of the loader, and r.Context() of such an
// *http.Request. The fix uses the loader's own parameter, which it names ctx if it has no name. Not reported are contexts
// that have nothing of a caller: variables of a package; those that are only ever given context.Background(),
// context.TODO(), a test's Context, a field of a struct, or what context.WithValue, context.WithCancel and signal.NotifyContext make of
// these; and what context.WithoutCancel makes.
//
// # loadercapture
//
// A loader that uses what ends with one caller's request: *sql.Tx, *sql.Conn, *sql.Row, *sql.Rows, pgx.Tx, pgx.Rows,
// *pgxpool.Tx, *pgxpool.Conn, http.ResponseWriter or *http.Request, declared outside of it:
//
//	p, err := pages.GetOrLoad(ctx, key, func(ctx context.Context, key string) (Page, error) {
//		return render(ctx, tx, r.PathValue("id"))
//	})
//
// The load may go on when the transaction is committed and the request answered, and what it reads there (what only this
// transaction has written, what only this user may see) goes to everybody. Take what is needed before, as in id := r.PathValue("id"), make it part
// of the key, and load from what lives as long as the cache. A request that the function has itself made, with http.NewRequest, is a template
// and not reported.
//
// # cachedmutation
//
// A change of a cached value:
//
//	u, err := users.GetOrLoad(ctx, id, loadUser) // a *User
//	u.Name = ""                                  // for all callers
//
// Values are shared by all callers and not copied. What one changes, others see, in the middle of reading it: a data race,
// which no other caller can see the cause of. Found is whatever a function changes of what it has from Get, GetOrLoad, Refresh, GetOrLoadMany,
// GetOrLoadSeq or Previous, by way of a pointer, a slice or a map: assignments, ++, delete, clear, copy, append to v[:n], and the functions of
// sort, slices and maps that work in place; also through other names, parts of the value and variables of loops. A struct that
// is a value is the caller's own, and so is the map of GetOrLoadMany; what they point to is not.
//
// # What it cannot see
//
// Each check looks at one function at a time, with the literals in it. It does not see loaders that are declared functions
// or methods, or that a function makes of others; contexts, transactions and requests in fields of structs, or of types that
// only contain them, as web frameworks have them; changes in functions and methods that are called with a value, and of values that such functions return. append(v, x) is not reported:
// whether it writes into memory that others append to depends on the capacity; append(slices.Clip(v), x) never does.
//
// Where ways of the control flow meet, a value counts as shared only if it is on each of them, except those on which there was none. After
// a variable was assigned in a loop, or in a function literal, or its address was taken, nothing is known of it. A struct that has a mutex is taken for one that
// guards itself. So what is reported is nearly always true, and what is not reported proves nothing.
package main
