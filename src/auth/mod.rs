//! Who is calling: the key of a request, looked up by its hash.
