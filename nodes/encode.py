"""Load Audio Encoder and Audio Encoder."""

from __future__ import annotations

from typing import Any

from ..audio2img_core.audio.waveform import read_audio_mapping
from ..audio2img_core.devices import DTYPES
from ..audio2img_core.encoder.embeddings import AudioEmbeddings
from . import host


class LoadAudioEncoder:
    """Load a trained audio encoder."""

    CATEGORY = "audio2img"
    DESCRIPTION = (
        "Loads an audio encoder from models/audio_encoders: a single .safetensors file, a folder with config.json, or "
        "a folder of the original audio2img project. The encoder must be trained for the family of your diffusion "
        "model: sd15, sd21 or sdxl."
    )
    SEARCH_ALIASES = ["wav2vec2bert", "w2v-bert", "audio model", "sound encoder"]
    FUNCTION = "execute"
    RETURN_TYPES = ("A2I_ENCODER",)
    RETURN_NAMES = ("encoder",)
    OUTPUT_TOOLTIPS = ("The encoder, for the node Audio Encoder (Wav2Vec2Bert).",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "encoder_name": (
                    host.encoder_names(),
                    {"tooltip": "A file or folder in models/audio_encoders, or mini, the embedded default."},
                ),
                "dtype": (
                    ["auto", *DTYPES],
                    {
                        "default": "auto",
                        "tooltip": "auto: bfloat16 where the device computes with it, float32 elsewhere and for mini.",
                    },
                ),
            },
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    def execute(self, encoder_name: str, dtype: str, unique_id: str | None = None) -> tuple[host.ManagedEncoder]:
        from ..audio2img_core.encoder.inspect import in_a_line
        from ..audio2img_core.encoder.model import AudioEncoder

        encoder = AudioEncoder.from_pretrained(
            host.encoder_path(encoder_name), dtype=host.encoder_dtype(dtype, encoder_name)
        )
        host.show(unique_id, in_a_line(encoder))
        return (host.manage_encoder(encoder_name, encoder),)


class EncodeAudio:
    """Turn sound into prompt tokens."""

    CATEGORY = "audio2img"
    DESCRIPTION = (
        "Hears a sound and gives the tokens that stand in for a text prompt. A sound longer than the encoder's window "
        "is cut in windows; Audio to Conditioning says what becomes of them."
    )
    SEARCH_ALIASES = ["encode audio", "encode sound", "wav2vec2bert", "audio embedding"]
    FUNCTION = "execute"
    RETURN_TYPES = ("A2I_EMBEDS",)
    RETURN_NAMES = ("embeds",)
    OUTPUT_TOOLTIPS = ("Tokens of each window of each clip, for the node Audio to Conditioning.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        seconds = {"default": 0.0, "min": 0.0, "max": 3600.0, "step": 0.05, "round": 0.001}
        return {
            "required": {
                "encoder": ("A2I_ENCODER", {"tooltip": "From Load Audio Encoder (Wav2Vec2Bert)."}),
                "audio": ("AUDIO", {"tooltip": "From any node that gives AUDIO; any channels, rate and batch."}),
            },
            "optional": {
                "window": ("FLOAT", {**seconds, "tooltip": "Seconds of one window; 0 is what the encoder learned."}),
                "hop": (
                    "FLOAT",
                    {**seconds, "tooltip": "Seconds between windows; 0 is what the encoder learned."},
                ),
                "batch_size": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 256,
                        "tooltip": "Windows at once; 0 is 8 on a GPU, 1 elsewhere.",
                    },
                ),
            },
        }

    def execute(
        self, encoder: host.ManagedEncoder, audio: Any, window: float = 0.0, hop: float = 0.0, batch_size: int = 0
    ) -> tuple[AudioEmbeddings]:
        waveform, rate = read_audio_mapping(audio)
        embeddings = encoder.ready().encode(
            waveform,
            rate,
            window=window or None,
            hop=hop or None,
            batch_size=batch_size or None,
            on_step=host.progress(),
        )
        return (embeddings.to(host.intermediate_device()),)
