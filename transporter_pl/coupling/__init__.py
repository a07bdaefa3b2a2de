"""The coupling network Φ: from the generator's latents to the VLM's visual tokens."""
