//! Shrinks a PNG or JPEG to fit a square of `?size=` pixels (128 by default) and keeps its format.
//!
//! What comes in is bounded in bytes and, before anything is decoded, in pixels; decoding holds at most 96 MiB.

use std::io::Cursor;

use dunlin_sdk::{Error, Request, Response, StatusCode};
use image::{ImageFormat, ImageReader, Limits};

const BODY_LIMIT_BYTES: usize = 10 << 20;
const SIDE_LIMIT_PIXELS: u32 = 4096;
const MEMORY_LIMIT_BYTES: u64 = 96 << 20;

#[dunlin_sdk::http]
fn handle(request: Request) -> Result<Response, Error> {
    let size: u32 = match request.query_param("size") {
        Some(size) => size.parse().map_err(Error::bad_request)?,
        None => 128,
    };
    if !(1..=1024).contains(&size) {
        return Err(Error::bad_request("size is from 1 to 1024 pixels"));
    }
    let body = request.bytes(BODY_LIMIT_BYTES)?;

    let mut reader = ImageReader::new(Cursor::new(body)).with_guessed_format()?;
    let (format, media_type) = match reader.format() {
        Some(ImageFormat::Png) => (ImageFormat::Png, "image/png"),
        Some(ImageFormat::Jpeg) => (ImageFormat::Jpeg, "image/jpeg"),
        _ => return Err(Error::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send a PNG or a JPEG").public()),
    };
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE_LIMIT_PIXELS);
    limits.max_image_height = Some(SIDE_LIMIT_PIXELS);
    limits.max_alloc = Some(MEMORY_LIMIT_BYTES);
    reader.limits(limits);

    let small = reader.decode().map_err(Error::bad_request)?.thumbnail(size, size);
    let mut out = Cursor::new(Vec::new());
    small.write_to(&mut out, format)?;
    Ok(Response::bytes(out.into_inner()).with_content_type(media_type))
}
