// Package browser looks at what this project shows people, in a headless Chromium: the page of cachehttp, a fleet whose lease holder is
// killed, and the report of cmd/stampede. It is a module of its own, for the driver's sake. CACHE_PICTURES=DIR keeps the pictures;
// CACHE_REQUIRE_BROWSER=1 turns the skip where there is no Chromium into a failure.
package browser
