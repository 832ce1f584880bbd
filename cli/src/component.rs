//! A component file on this side of the wire: read whole, recognized by its first bytes, named by its digest.
//!
//! The node checks everything again and more; what is said here is said before an upload.

use bytes::Bytes;
use dunlin_api::{Digest, Refusal};
use std::path::Path;

use crate::exit::Failure;

/// `\0asm`, then version and layer (component-model `Binary.md`): layer 1 is a component, version 1 layer 0 a core module.
const COMPONENT: [u8; 8] = [0, b'a', b's', b'm', 0x0d, 0, 1, 0];
const CORE_MODULE: [u8; 8] = [0, b'a', b's', b'm', 1, 0, 0, 0];

/// A component that was read from a file.
#[derive(Clone, Debug)]
pub(crate) struct Component {
    pub(crate) bytes: Bytes,
    pub(crate) digest: Digest,
}

impl Component {
    /// Reads `path` and refuses what cannot be a component.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| {
            let failure = Failure::caller(format!("cannot read {}: {e}", path.display()));
            if path.is_dir() { failure.hint("name a .wasm file, not a folder") } else { failure }
        })?;
        recognize(&bytes).map_err(|why| refused(path, &why))?;
        let bytes = Bytes::from(bytes);
        Ok(Self { digest: Digest::of(&bytes), bytes })
    }
}

fn refused(path: &Path, why: &Refusal) -> Failure {
    Failure::caller(format!("{}: {why}", path.display()))
}

fn recognize(bytes: &[u8]) -> Result<(), Refusal> {
    let not = |reason: &str| Err(Refusal::NotComponent(reason.into()));
    match bytes.get(..8) {
        Some(head) if head == COMPONENT => Ok(()),
        Some(head) if head == CORE_MODULE => Err(Refusal::CoreModule),
        Some([0, b'a', b's', b'm', ..]) => not("it is of a version of the format that is not known"),
        Some(_) => not("it does not begin as WebAssembly does"),
        None if bytes.is_empty() => not("the file is empty"),
        None => not("the file ends after a few bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_components_modules_and_the_rest_apart() {
        assert_eq!(recognize(&wat::parse_str("(component)").unwrap()), Ok(()));
        assert_eq!(recognize(&wat::parse_str("(module)").unwrap()), Err(Refusal::CoreModule));
        for other in [&b""[..], b"\0asm", b"not wasm at all", b"\0asm\x63\0\0\0"] {
            assert!(matches!(recognize(other), Err(Refusal::NotComponent(_))), "{other:?}");
        }
    }
}
