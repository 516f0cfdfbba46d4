"""How fast the application is, against a ceiling without Ray and against Serve as it comes."""
