"""What runs inside a sandbox: the standard library alone, imported as the package `inside` by a bare interpreter."""
