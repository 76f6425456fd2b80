package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"log"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/bellwether-go/cache"
)

const (
	schema     = "CREATE TABLE sessions (key TEXT PRIMARY KEY, user TEXT NOT NULL, ends INTEGER NOT NULL)"
	cookieName = "session"
	lifetime   = time.Hour
)

// session is a row of the database, and what is cached of it.
type session struct {
	User string
	Ends time.Time
}

// service is a process of a web service.
type service struct {
	name     string
	db       *sql.DB
	sessions *cache.Cache[session]
	queries  atomic.Int64
}

// newService makes a service. TTL is how long a copy of a row is used, and has nothing to do with how long a session lasts: that is in the
// row. There is no StaleIfError: who may have been logged out is not let in because the database is down.
func newService(name string, db *sql.DB, rds *cache.Redis) (*service, error) {
	sessions, err := cache.New[session]("session", cache.Options{
		Redis:    rds,
		TTL:      10 * time.Minute,
		LocalTTL: 10 * time.Second, // a process that is cut off from Redis may not know of a logout for so long
		Tags:     true,
	})
	return &service{name: name, db: db, sessions: sessions}, err
}

func (s *service) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login", s.login)
	mux.HandleFunc("GET /me", s.me)
	mux.HandleFunc("POST /logout", s.logout)
	mux.HandleFunc("POST /logout-everywhere", s.logoutEverywhere)
	return mux
}

// keyOf is what a session is known by here: whoever can read the database, or the keys in Redis, cannot make a cookie of it.
func keyOf(cookie string) string {
	sum := sha256.Sum256([]byte(cookie))
	return hex.EncodeToString(sum[:])
}

func tagOf(user string) string { return "user:" + user }

// login begins a session. Who it is that wants one has been found out before, in a real service.
//
// The cache is told before the database, which is right only for a key that nobody knows yet. After the row, a "log out everywhere"
// could come in between: it would delete the row, and the session that is set thereafter would stay in the cache for its TTL.
func (s *service) login(w http.ResponseWriter, r *http.Request) {
	v := session{User: r.PostFormValue("user"), Ends: time.Now().Add(lifetime)}
	if v.User == "" || len(v.User) > 100 { // a tag has its limits
		http.Error(w, "who are you?", http.StatusBadRequest)
		return
	}
	cookie := rand.Text()
	key := keyOf(cookie)
	_ = s.sessions.Set(r.Context(), key, v, cache.WithTags(tagOf(v.User))) // it saves a query, and no more: what fails is loaded
	const insert = "INSERT INTO sessions (key, user, ends) VALUES (?, ?, ?)"
	if _, err := s.db.ExecContext(r.Context(), insert, key, v.User, v.Ends.Unix()); err != nil {
		fail(w, err) // what was set is nobody's
		return
	}
	setCookie(w, cookie, lifetime)
	w.WriteHeader(http.StatusNoContent)
}

// setCookie has the browser keep a cookie, or forget it if it lasts for less than nothing.
func setCookie(w http.ResponseWriter, value string, lasts time.Duration) {
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: value, MaxAge: int(lasts.Seconds()), Path: "/", HttpOnly: true, Secure: true, SameSite: http.SameSiteLaxMode,
	})
}

// session finds the session of a request; without one its error is cache.ErrNotFound.
func (s *service) session(r *http.Request) (cookie string, v session, err error) {
	c, err := r.Cookie(cookieName)
	if err != nil {
		return "", session{}, cache.ErrNotFound
	}
	v, err = s.sessions.GetOrLoad(r.Context(), keyOf(c.Value), s.load)
	if err == nil && !time.Now().Before(v.Ends) { // it may have been cached before
		err = cache.ErrNotFound
	}
	return c.Value, v, err
}

// load is the loader. The tag is told here as well as at login, for what was set may be gone, and is then loaded.
func (s *service) load(ctx context.Context, key string) (session, error) {
	s.queries.Add(1)
	var v session
	var ends int64
	err := s.db.QueryRowContext(ctx, "SELECT user, ends FROM sessions WHERE key = ?", key).Scan(&v.User, &ends)
	if errors.Is(err, sql.ErrNoRows) {
		return session{}, cache.ErrNotFound
	}
	if err != nil {
		return session{}, err
	}
	v.Ends = time.Unix(ends, 0)
	cache.LoadFrom(ctx).SetTags(tagOf(v.User))
	return v, nil
}

func (s *service) me(w http.ResponseWriter, r *http.Request) {
	cookie, v, err := s.session(r)
	if err == nil && time.Until(v.Ends) < lifetime/2 {
		if err = s.prolong(r.Context(), keyOf(cookie)); err == nil {
			setCookie(w, cookie, lifetime)
		}
	}
	if err != nil {
		fail(w, err)
		return
	}
	_, _ = w.Write([]byte(v.User)) // the client may have gone
}

// prolong is how a session lasts for as long as it is used. The cache has no TTL that slides, for a hit in memory tells nobody. That
// somebody was here is a fact for the database, which is told of it twice an hour, and not with each request. Then the key is deleted, and
// not set: if somebody has logged out meanwhile UPDATE finds no row, and a Set would bring the session back.
func (s *service) prolong(ctx context.Context, key string) error {
	_, err := s.db.ExecContext(ctx, "UPDATE sessions SET ends = ? WHERE key = ?", time.Now().Add(lifetime).Unix(), key)
	_ = s.sessions.Delete(context.WithoutCancel(ctx), key) // it is repeated if it fails; until then others go by the old end
	return err
}

func (s *service) logout(w http.ResponseWriter, r *http.Request) {
	cookie, _, err := s.session(r)
	if err != nil {
		fail(w, err)
		return
	}
	key := keyOf(cookie)
	_, err = s.db.ExecContext(r.Context(), "DELETE FROM sessions WHERE key = ?", key)
	// Also if the database has failed, for it may have deleted, and only its answer got lost. If Redis fails, other processes may still
	// know the session: that is repeated until it has succeeded, but the user has to know.
	loggedOut(w, errors.Join(err, s.sessions.Delete(context.WithoutCancel(r.Context()), key)))
}

func (s *service) logoutEverywhere(w http.ResponseWriter, r *http.Request) {
	_, v, err := s.session(r)
	if err != nil {
		fail(w, err)
		return
	}
	_, err = s.db.ExecContext(r.Context(), "DELETE FROM sessions WHERE user = ?", v.User)
	loggedOut(w, errors.Join(err, s.sessions.DeleteTags(context.WithoutCancel(r.Context()), tagOf(v.User))))
}

func loggedOut(w http.ResponseWriter, err error) {
	if err != nil {
		fail(w, err)
		return
	}
	setCookie(w, "", -time.Second)
	w.WriteHeader(http.StatusNoContent)
}

func fail(w http.ResponseWriter, err error) {
	if errors.Is(err, cache.ErrNotFound) {
		http.Error(w, "nobody is logged in", http.StatusUnauthorized)
		return
	}
	log.Print(err)
	http.Error(w, "it does not work now", http.StatusInternalServerError)
}
