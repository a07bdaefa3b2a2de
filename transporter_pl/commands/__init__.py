"""What the ``transporter`` command runs: a plain function a subcommand, its arguments read from its signature."""
