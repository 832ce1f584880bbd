//! The contract of [`Blobs`].

use bytes::Bytes;
use dunlin_api::{ByteSize, StoreError};
use dunlin_scheduler::store::{ByteStream, PutError, events::Blobs};
use futures::{StreamExt, TryStreamExt, stream};
use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use super::{artifacts::pieces, unique};

const MAX: ByteSize = ByteSize::mib(8);

/// Every rule of the contract.
pub(crate) async fn holds(blobs: Arc<dyn Blobs>) {
    gives_back_what_was_put(&*blobs).await;
    replaces_deletes_and_lists(&*blobs).await;
    keeps_nothing_of_what_is_too_large_or_breaks_off(&*blobs).await;
    streams_several_megabytes(&*blobs).await;
    refuses_names_that_are_none(&*blobs).await;
}

async fn read(blobs: &dyn Blobs, name: &str) -> Option<Vec<u8>> {
    let (size, bytes) = blobs.get(name).await.unwrap()?;
    let bytes: Vec<Bytes> = bytes.try_collect().await.unwrap();
    let bytes = bytes.concat();
    assert_eq!(bytes.len() as u64, size);
    Some(bytes)
}

async fn time(blobs: &dyn Blobs, name: &str) -> Option<u64> {
    blobs.list().await.unwrap().into_iter().find(|(found, _)| found == name).map(|(_, time)| time)
}

async fn gives_back_what_was_put(blobs: &dyn Blobs) {
    let (name, empty) = (unique("Blob_1.x"), unique("empty"));
    assert_eq!(read(blobs, &name).await, None);
    let bytes = vec![7; 12_345];
    assert_eq!(blobs.put(&name, pieces(&bytes), MAX).await.unwrap(), 12_345);
    assert_eq!(read(blobs, &name).await, Some(bytes));
    assert_eq!(blobs.put(&empty, pieces(b""), MAX).await.unwrap(), 0);
    assert_eq!(read(blobs, &empty).await, Some(Vec::new()));
}

async fn replaces_deletes_and_lists(blobs: &dyn Blobs) {
    let name = unique("again");
    blobs.put(&name, pieces(b"first, and longer"), MAX).await.unwrap();
    blobs.put(&name, pieces(b"second"), MAX).await.unwrap();
    assert_eq!(read(blobs, &name).await, Some(b"second".to_vec()));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let stored = time(blobs, &name).await.unwrap();
    assert!(now.abs_diff(stored) < 60_000, "{stored} is not about {now}");
    blobs.delete(&name).await.unwrap();
    blobs.delete(&name).await.unwrap();
    assert_eq!(read(blobs, &name).await, None);
    assert_eq!(time(blobs, &name).await, None);
}

async fn keeps_nothing_of_what_is_too_large_or_breaks_off(blobs: &dyn Blobs) {
    let name = unique("broken");
    let max = ByteSize::kib(64);
    let most = vec![1; max.as_usize()];
    let over = [&most[..], b"x"].concat();
    assert!(matches!(blobs.put(&name, pieces(&over), max).await, Err(PutError::TooLarge { limit }) if limit == max));
    let broken = pieces(&most).chain(stream::iter([Err("the client left".into())])).boxed();
    assert!(matches!(blobs.put(&name, broken, max).await, Err(PutError::Source(_))));
    assert_eq!(read(blobs, &name).await, None);
    assert_eq!(time(blobs, &name).await, None);
    assert_eq!(blobs.put(&name, pieces(&most), max).await.unwrap(), max.bytes());
    // What was there stays when its replacement is refused.
    let broken = pieces(b"new").chain(stream::iter([Err("the client left".into())])).boxed();
    assert!(blobs.put(&name, broken, max).await.is_err());
    assert_eq!(read(blobs, &name).await, Some(most));
}

async fn streams_several_megabytes(blobs: &dyn Blobs) {
    let name = unique("large");
    let piece = |n: u32| Bytes::from(n.to_le_bytes().repeat(16 << 10));
    let bytes: ByteStream<'_> = stream::iter(0..100).map(|n| Ok(piece(n))).boxed();
    assert_eq!(blobs.put(&name, bytes, MAX).await.unwrap(), 100 * (64 << 10));
    let (_, mut bytes) = blobs.get(&name).await.unwrap().unwrap();
    let (mut read, mut chunks) = (Vec::new(), 0);
    while let Some(chunk) = bytes.next().await {
        read.extend_from_slice(&chunk.unwrap());
        chunks += 1;
    }
    assert!(chunks > 1, "it came as one piece");
    assert_eq!(read, (0..100).flat_map(piece).collect::<Vec<u8>>());
    blobs.delete(&name).await.unwrap();
}

async fn refuses_names_that_are_none(blobs: &dyn Blobs) {
    let longest = format!("{:x<100}", unique("n"));
    blobs.put(&longest, pieces(b"x"), MAX).await.unwrap();
    assert_eq!(read(blobs, &longest).await, Some(b"x".to_vec()));
    let over = format!("{longest}x");
    for bad in ["", "a/b", "../x", "a b", "ä", &over] {
        let put = blobs.put(bad, pieces(b"x"), MAX).await;
        assert!(matches!(put, Err(PutError::Store(StoreError::Invalid(_)))), "{bad}: {put:?}");
    }
}
