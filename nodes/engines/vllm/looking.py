"""Shell. vLLM's own eyes, asked for what they see: an extension of its workers, which vLLM loads in their processes."""

from typing import Any

from nodes.engines.transformers.library import torch

METHOD = "wiremesh_look"


class Looking:
    """What a worker of vLLM inherits from besides. Its one method has a name that no class of vLLM has."""

    model_runner: Any
    model_config: Any

    def wiremesh_look(self, pixels: bytes, shape: list[int], grid: list[int]) -> bytes:
        """One picture, prepared, as float32: the rows that it stands for, likewise."""
        taken = torch.frombuffer(bytearray(pixels), dtype=torch.float32).reshape(shape)
        given = {"pixel_values": taken.to(self.model_runner.device, self.model_config.dtype)}
        if grid:
            given["image_grid_thw"] = torch.tensor([grid])
        with torch.inference_mode():
            rows = self.model_runner.get_model().embed_multimodal(**given)[0]
        found: bytes = rows.float().cpu().numpy().tobytes()
        return found
