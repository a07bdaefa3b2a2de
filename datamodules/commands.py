"""Commands that come with the data sets; each imports what it needs only when it is called."""

from transporter_pl.cli import Command

encode = Command("captioned videos → latent cache", "transporter_pl.datamodules.encode:encode_videos")
cache = Command("see, verify and prune a latent cache", "transporter_pl.datamodules.cache.upkeep:run", stage=True)
clips = Command("the embedded world's clips as files", "transporter_pl.datamodules.shapemotion.files:write_clips")
measure = Command("the embedded world's bars, as tables", "transporter_pl.datamodules.shapemotion.bars:measure")
ablate = Command(
    "variants of Φ on the embedded world, as a table", "transporter_pl.datamodules.shapemotion.ablation:ablate"
)
