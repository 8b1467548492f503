"""What routers choose on held-out text, and how the choices of two models differ."""
