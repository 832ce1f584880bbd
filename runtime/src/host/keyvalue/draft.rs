//! `wasi:keyvalue@0.2.0-draft`: the tagged draft, without compare-and-swap.

use std::collections::VecDeque;

use bytes::Bytes;
use wasmtime::component::{Linker, Resource};

use super::{Bucket, Error, HasKeyValue, KeyValueView, Result};
pub(super) use bindings::wasi::keyvalue::store;
use bindings::wasi::keyvalue::{atomics, batch};

mod bindings {
    wasmtime::component::bindgen!({
        path: "wit/deps/keyvalue",
        world: "wasi:keyvalue/imports",
        imports: { default: async | trappable },
        with: { "wasi:keyvalue/store.bucket": crate::host::keyvalue::Bucket },
        trappable_error_type: { "wasi:keyvalue/store.error" => crate::host::keyvalue::Error },
    });
}

/// Cursors are numbers in this draft, so the bucket remembers which key each of them stands for.
#[derive(Default)]
pub(super) struct Cursors {
    first: u64,
    keys: VecDeque<String>,
}

impl Cursors {
    /// Cursors remembered per bucket; listing needs the last one, and a guest may go back a little.
    const MAX: usize = 16;

    fn push(&mut self, key: String) -> u64 {
        if self.keys.len() == Self::MAX {
            self.keys.pop_front();
            self.first += 1;
        }
        self.keys.push_back(key);
        self.first + self.keys.len() as u64 - 1
    }

    fn get(&self, cursor: u64) -> Option<&String> {
        self.keys.get(usize::try_from(cursor.checked_sub(self.first)?).ok()?)
    }
}

pub(super) fn add_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    view: fn(&mut T) -> KeyValueView<'_>,
) -> wasmtime::Result<()> {
    store::add_to_linker::<_, HasKeyValue>(linker, view)?;
    atomics::add_to_linker::<_, HasKeyValue>(linker, view)?;
    batch::add_to_linker::<_, HasKeyValue>(linker, view)
}

impl store::Host for KeyValueView<'_> {
    async fn open(&mut self, name: String) -> Result<Resource<Bucket>> {
        self.open(&name)
    }

    fn convert_error(&mut self, error: Error) -> wasmtime::Result<store::Error> {
        Ok(match error {
            Error::NoSuchStore => store::Error::NoSuchStore,
            Error::AccessDenied => store::Error::AccessDenied,
            Error::Other(text) => store::Error::Other(text),
        })
    }
}

impl store::HostBucket for KeyValueView<'_> {
    async fn get(&mut self, bucket: Resource<Bucket>, key: String) -> Result<Option<Vec<u8>>> {
        Ok(self.get(&bucket, &key).await?.map(Vec::from))
    }

    async fn set(&mut self, bucket: Resource<Bucket>, key: String, value: Vec<u8>) -> Result<()> {
        self.set(&bucket, &key, value).await
    }

    async fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> Result<()> {
        self.delete(&bucket, &key).await
    }

    async fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> Result<bool> {
        Ok(self.get(&bucket, &key).await?.is_some())
    }

    async fn list_keys(&mut self, bucket: Resource<Bucket>, cursor: Option<u64>) -> Result<store::KeyResponse> {
        let after = match cursor {
            None => None,
            Some(cursor) => {
                let known = self.table.get(&bucket)?.cursors.get(cursor).cloned();
                Some(known.ok_or_else(|| Error::Other(format!("cursor {cursor} is not one of this bucket's last")))?)
            }
        };
        let (keys, next) = self.keys(&bucket, after.as_deref()).await?;
        let cursors = &mut self.table.get_mut(&bucket)?.cursors;
        Ok(store::KeyResponse { keys, cursor: next.map(|key| cursors.push(key)) })
    }

    async fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

impl atomics::Host for KeyValueView<'_> {
    async fn increment(&mut self, bucket: Resource<Bucket>, key: String, delta: u64) -> Result<u64> {
        let range = |_| Error::Other(format!("a counter stays between 0 and {} in this draft", i64::MAX));
        let delta = i64::try_from(delta).map_err(range)?;
        u64::try_from(self.increment(&bucket, &key, delta).await?).map_err(range)
    }
}

impl batch::Host for KeyValueView<'_> {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Result<Vec<Option<(String, Vec<u8>)>>> {
        let entries = self.get_many(&bucket, keys).await?;
        let entry = |(key, value): (String, Option<Bytes>)| value.map(|value| (key, value.into()));
        Ok(entries.into_iter().map(entry).collect())
    }

    async fn set_many(&mut self, bucket: Resource<Bucket>, entries: Vec<(String, Vec<u8>)>) -> Result<()> {
        self.set_many(&bucket, entries).await
    }

    async fn delete_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Result<()> {
        self.delete_many(&bucket, keys).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_the_last_cursors_only() {
        let mut cursors = Cursors::default();
        let numbers: Vec<u64> = (0..40).map(|n| cursors.push(format!("k{n}"))).collect();
        assert_eq!(cursors.get(numbers[39]).unwrap(), "k39");
        assert_eq!(cursors.get(numbers[24]).unwrap(), "k24");
        for unknown in [numbers[23], 40, u64::MAX] {
            assert_eq!(cursors.get(unknown), None);
        }
        assert_eq!(cursors.keys.len(), Cursors::MAX);
    }
}
