"""A pydicom plugin for JPEG Extended of 12 bits, by gdcm, which pydicom's own plugin refuses."""

import gdcm
from pydicom.pixels.decoders.base import DecodeRunner
from pydicom.pixels.decoders.gdcm import is_available as gdcm_is_available
from pydicom.uid import JPEGExtended12Bit

DECODER_DEPENDENCIES = {JPEGExtended12Bit: ("gdcm>=3.0.10",)}  # read by pydicom


def is_available(uid: str) -> bool:
    """Whether gdcm is installed."""
    return uid == JPEGExtended12Bit and gdcm_is_available(uid)


def decode_frame(codestream: bytes, runner: DecodeRunner) -> bytes:
    """One frame's samples, in `bits_allocated` bits each."""
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(codestream)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((runner.columns, runner.rows, 1))
    image.SetDataElement(element)
    kind = gdcm.PhotometricInterpretation.GetPIType(str(runner.photometric_interpretation))
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    syntax = gdcm.TransferSyntax.GetTSType(str(JPEGExtended12Bit))
    image.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    stored = runner.bits_stored
    image.SetPixelFormat(
        gdcm.PixelFormat(
            runner.samples_per_pixel,
            runner.bits_allocated,
            stored,
            stored - 1,
            runner.pixel_representation,
        )
    )
    decoded: str = image.GetBuffer()  # bytes, as SWIG passes a char*
    return decoded.encode("utf-8", "surrogateescape")
