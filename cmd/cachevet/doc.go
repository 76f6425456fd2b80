// Command cachevet finds mistakes in the use of github.com/bellwether-go/cache that no compiler sees and few tests do:
// what they break is another caller, at another time.
//
//	go install github.com/bellwether-go/cache/cmd/cachevet@latest
//
//	go vet -vettool=$(which cachevet) ./...   # as part of go vet, which remembers what it has looked at
//	cachevet ./...                            # by itself; -fix applies the fixes, -fix -diff shows them
//
// -loaderctx, -loadercapture and -cachedmutation run only the checks that are named; -loaderctx=false runs all others. The
// exit code is 0 if nothing is found. cachevet help NAME says more about a check.
//
// # loaderctx
//
// A loader that uses the context of the call in which it is written:
//
//	u, err := users.GetOrLoad(ctx, id, func(_ context.Context, id string) (User, error) {
//		return db.User(ctx, id) // the context of whoever came first
//	})
//
// One load serves many callers and outlives them. Therefore the cache gives it a context of its own, which has the values
// of the call that began it, and not its end. With the caller's context the load dies with that caller, and all others,
// who have time left, get the error; Options.LoadTimeout and Close do not reach what it does; and if it asks for the key that
// it is loading, it waits for itself instead of getting an error.
//
// It finds variables of type context.Context that are declared outside of the loader, and r.Context() of such an
// *http.Request. The fix puts the loader's own context there, and names it ctx if it has no name; there is none where that
// might not compile, or mean something else.
//
// Contexts that have nothing of a caller are not reported: variables of a package; those that are only ever given
// context.Background(), context.TODO(), the Context of a test or a field of a struct, or what context.WithValue,
// context.WithCancel and signal.NotifyContext make of these; and what context.WithoutCancel makes of any. Nor is a variable that
// the loader itself gives a value.
//
// # loadercapture
//
// A loader that uses what ends with one caller's request:
//
//	p, err := pages.GetOrLoad(ctx, key, func(ctx context.Context, key string) (Page, error) {
//		return render(ctx, tx, r.PathValue("id"))
//	})
//
// The load may go on when the transaction is over and the request answered. And what it reads there goes to everybody: what
// only this transaction has written, what only this user may see. Load from what lives as long as the cache; take plain
// values before, as in id := r.PathValue("id"), and make them part of the key.
//
// It finds variables of these types that are declared outside of the loader: *http.Request, http.ResponseWriter; *sql.Tx,
// *sql.Conn, *sql.Row, *sql.Rows; of github.com/jackc/pgx/v5 Tx, Row and Rows, and of its pgxpool *Tx and *Conn. Variables of a
// package are not reported, nor is a request that the function makes with http.NewRequest: it is a template.
//
// # cachedmutation
//
// A change of a cached value:
//
//	u, err := users.GetOrLoad(ctx, id, loadUser) // a *User
//	u.Name = ""                                  // for all callers
//
// Values are shared by all callers and not copied. Others see the change, perhaps in the middle of reading: a data race
// that shows up far from its cause.
//
// It follows what a function has from Get, GetOrLoad, Refresh, GetOrLoadMany, GetOrLoadSeq and Previous, also under other
// names, in parts, and in loops, and finds what changes it by way of a pointer, a slice or a map: assignments, ++, delete,
// clear, copy, append to v[:n], and the functions of sort, slices and maps that work in place. A struct that is a value is
// the caller's own, and so is the map of GetOrLoadMany; what they point to is not.
//
// # What it does not see
//
// Each check looks at one function at a time, with the literals in it. None sees loaders that are declared functions or
// methods, or that a function makes of others; contexts, transactions and requests in fields of structs and in the types of
// web frameworks; changes in functions and methods that are called with a value, and of values that such functions return.
//
// append(v, x) is not reported: whether it writes into memory that others append to as well depends on the capacity.
// append(slices.Clip(v), x) never does.
//
// Where branches meet, a value counts as shared if it is so on each of them, not counting those on which there was none. Nothing
// is known any more of a variable that a loop or a literal assigns, or whose address was taken, nor in a function with goto.
// A struct that has a mutex is taken for one that guards itself. So what is reported is nearly always true; that nothing
// is reported proves nothing.
package main
