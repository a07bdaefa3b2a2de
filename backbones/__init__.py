"""Backbone plug-ins (imported as ``transporter_pl.backbones``)."""

if __name__ != "transporter_pl.backbones":
    msg = "import transporter_pl.backbones, not the bare folder: a user's own folder of that name would break it"
    raise ImportError(msg)
