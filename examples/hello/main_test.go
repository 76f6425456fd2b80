package main

// The program that the README begins with, and what it prints.
func Example() {
	main()
	// Output:
	// loading 42
	// Ann <nil>
	// Ann <nil>
	// Ann <nil>
}
