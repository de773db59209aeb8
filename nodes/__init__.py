"""The ComfyUI nodes: thin, each resolves its inputs and calls one function of audio2img_core."""

from . import host
from .blend import BlendConditioning
from .conditioning import AudioToConditioning
from .encode import EncodeAudio, LoadAudioEncoder
from .load_audio import LoadAudio
from .mini import LoadMiniDiffusion
from .schedule import AudioConditioningSchedule
from .similarity import AudioTextSimilarity
from .spectrogram import PreviewSpectrogram

NODE_CLASS_MAPPINGS = {
    "Audio2ImgLoadAudio": LoadAudio,
    "Audio2ImgLoadEncoder": LoadAudioEncoder,
    "Audio2ImgEncode": EncodeAudio,
    "Audio2ImgToConditioning": AudioToConditioning,
    "Audio2ImgBlend": BlendConditioning,
    "Audio2ImgSchedule": AudioConditioningSchedule,
    "Audio2ImgLoadMini": LoadMiniDiffusion,
    "Audio2ImgSpectrogram": PreviewSpectrogram,
    "Audio2ImgSimilarity": AudioTextSimilarity,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "Audio2ImgLoadAudio": "Load Audio",
    "Audio2ImgLoadEncoder": "Load Audio Encoder (Wav2Vec2Bert)",
    "Audio2ImgEncode": "Audio Encoder (Wav2Vec2Bert)",
    "Audio2ImgToConditioning": "Audio to Conditioning",
    "Audio2ImgBlend": "Blend Conditioning",
    "Audio2ImgSchedule": "Audio Conditioning Schedule",
    "Audio2ImgLoadMini": "Load Mini Diffusion Model",
    "Audio2ImgSpectrogram": "Preview Spectrogram",
    "Audio2ImgSimilarity": "Audio-Text Similarity",
}
host.serve_examples()

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
