"""What the company may do: the declared catalog, its checks, releases and the compiled plan."""
