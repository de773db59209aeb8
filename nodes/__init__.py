"""The ComfyUI nodes: thin, each resolves its inputs and calls one function of audio2img_core."""

from .conditioning import AudioToConditioning
from .encode import EncodeAudio, LoadAudioEncoder
from .load_audio import LoadAudio

NODE_CLASS_MAPPINGS = {
    "Audio2ImgLoadAudio": LoadAudio,
    "Audio2ImgLoadEncoder": LoadAudioEncoder,
    "Audio2ImgEncode": EncodeAudio,
    "Audio2ImgToConditioning": AudioToConditioning,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "Audio2ImgLoadAudio": "Load Audio",
    "Audio2ImgLoadEncoder": "Load Audio Encoder (Wav2Vec2Bert)",
    "Audio2ImgEncode": "Audio Encoder (Wav2Vec2Bert)",
    "Audio2ImgToConditioning": "Audio to Conditioning",
}

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
