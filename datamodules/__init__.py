"""Data sets and caches (imported as ``transporter_pl.datamodules``)."""

if __name__ != "transporter_pl.datamodules":
    msg = "import transporter_pl.datamodules, not the bare folder: a user's own folder of that name would break it"
    raise ImportError(msg)
