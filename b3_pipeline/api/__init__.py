"""What goes out over HTTP: the legacy contract, the current one (`/api/v1`), and the page. It reads; it changes little."""
