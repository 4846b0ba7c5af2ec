"""The application: sessions, their runs and their connections. Knows no HTTP and no technology."""
