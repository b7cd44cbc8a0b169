//! A throw-away network in namespaces of its own, for `leakguard demo` and for the tests.
