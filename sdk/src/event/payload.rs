//! Payloads: JSON into the type that the handler asks for, or the bytes as they are.

#[cfg(feature = "json")]
use std::any::Any;

/// What the payload of an event may be read as: `Vec<u8>` (as it is), `String` (UTF-8), `()` (not looked at), and with the
/// feature `json` every type that serde reads. An empty payload is `null` in JSON, so an `Option` takes it.
#[diagnostic::on_unimplemented(
    message = "the payload of an event cannot be read as `{Self}`",
    note = "derive `serde::Deserialize` for it (feature `json` of dunlin-sdk), or take `Vec<u8>`, `String` or `()`"
)]
pub trait Payload: Sized {
    /// Reads it.
    ///
    /// # Errors
    /// Says where it is not what was wanted.
    fn from_payload(bytes: Vec<u8>) -> Result<Self, String>;
}

#[cfg(not(feature = "json"))]
impl Payload for Vec<u8> {
    fn from_payload(bytes: Vec<u8>) -> Result<Self, String> {
        Ok(bytes)
    }
}

#[cfg(not(feature = "json"))]
impl Payload for String {
    fn from_payload(bytes: Vec<u8>) -> Result<Self, String> {
        text(bytes)
    }
}

#[cfg(not(feature = "json"))]
impl Payload for () {
    fn from_payload(_bytes: Vec<u8>) -> Result<Self, String> {
        Ok(())
    }
}

// Serde reads bytes and texts as well, namely as JSON: the raw ones are told apart by what they are, which the compiler
// decides, since stable Rust does not let one implementation except some types.
#[cfg(feature = "json")]
impl<T: serde::de::DeserializeOwned + 'static> Payload for T {
    fn from_payload(bytes: Vec<u8>) -> Result<Self, String> {
        let mut data: Option<T> = None;
        let slot: &mut dyn Any = &mut data;
        if let Some(raw) = slot.downcast_mut::<Option<Vec<u8>>>() {
            *raw = Some(bytes);
        } else if let Some(raw) = slot.downcast_mut::<Option<String>>() {
            *raw = Some(text(bytes)?);
        } else if let Some(nothing) = slot.downcast_mut::<Option<()>>() {
            *nothing = Some(());
        } else {
            let json = if bytes.is_empty() { b"null" } else { &*bytes };
            data = Some(serde_json::from_slice(json).map_err(|error| error.to_string())?);
        }
        data.ok_or_else(|| "it was not read".into())
    }
}

fn text(bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_types_take_what_is_there() {
        let json = br#""seven""#.to_vec();
        assert_eq!(Vec::<u8>::from_payload(json.clone()), Ok(json.clone()));
        assert_eq!(String::from_payload(json.clone()).as_deref(), Ok("\"seven\""));
        assert_eq!(<()>::from_payload(json), Ok(()));
        assert_eq!(<()>::from_payload(Vec::new()), Ok(()));
        assert!(String::from_payload(vec![0xff]).is_err());
    }

    #[cfg(feature = "json")]
    #[test]
    fn other_types_are_json() {
        assert_eq!(Vec::<u32>::from_payload(b"[1, 2]".to_vec()), Ok(vec![1, 2]));
        let error = Vec::<u32>::from_payload(b"[1,\n\"2\"]".to_vec()).unwrap_err();
        assert!(error.contains("line 2 column"), "{error}");
        assert!(u32::from_payload(Vec::new()).is_err());
        assert_eq!(Option::<u32>::from_payload(Vec::new()), Ok(None));
    }
}
