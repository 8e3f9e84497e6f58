"""The app that Flower runs at the server and at the sites; it knows nothing of mosaic."""
