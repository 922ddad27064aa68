"""What a client asks management for, by subject."""
