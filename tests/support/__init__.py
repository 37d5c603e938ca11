"""What tests share: small corpora, runs, encoders, heads, servers and commands."""
