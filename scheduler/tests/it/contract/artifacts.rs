//! The contract of [`ArtifactStore`].

use bytes::Bytes;
use dunlin_api::{ByteSize, Digest, StoreError};
use dunlin_scheduler::store::{ArtifactStore, ByteStream, PutError, Stored};
use futures::{StreamExt, future::join_all, stream};
use std::{sync::Arc, time::SystemTime};

const MAX: ByteSize = ByteSize::kib(64);

/// Every rule of the contract against an empty store.
pub(crate) async fn holds(store: Arc<dyn ArtifactStore>) {
    gives_back_what_was_put(&*store).await;
    keeps_nothing_of_an_upload_that_is_not_what_it_says(&*store).await;
    takes_artifacts_up_to_the_limit(&*store).await;
    many_uploads_of_the_same_bytes_agree(store.clone()).await;
    deletes_and_lists(&*store).await;
}

/// `bytes` in pieces, as a network delivers them.
pub(crate) fn pieces(bytes: &[u8]) -> ByteStream<'static> {
    let pieces: Vec<_> = bytes.chunks(1_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    stream::iter(pieces).boxed()
}

async fn names(store: &dyn ArtifactStore) -> Vec<Digest> {
    let mut names: Vec<_> = store.list().await.unwrap().into_iter().map(|info| info.digest).collect();
    names.sort();
    names
}

async fn gives_back_what_was_put(store: &dyn ArtifactStore) {
    let bytes = vec![7; 12_345];
    let digest = Digest::of(&bytes);
    assert!(matches!(store.fetch(digest).await, Err(StoreError::NotFound(_))));
    assert_eq!(store.touch(digest).await.unwrap(), None);
    assert_eq!(store.put(digest, pieces(&bytes), MAX).await.unwrap(), Stored::New);
    assert_eq!(store.put(digest, pieces(&bytes), MAX).await.unwrap(), Stored::Known);
    assert_eq!(store.fetch(digest).await.unwrap(), bytes);
    assert_eq!(store.touch(digest).await.unwrap(), Some(12_345));
    let empty = Digest::of(b"");
    assert_eq!(store.put(empty, pieces(b""), MAX).await.unwrap(), Stored::New);
    assert_eq!(store.fetch(empty).await.unwrap(), Bytes::new());
}

async fn keeps_nothing_of_an_upload_that_is_not_what_it_says(store: &dyn ArtifactStore) {
    let before = names(store).await;
    let (bytes, digest) = (vec![8; 5_000], Digest::of(&[8; 5_001]));
    match store.put(digest, pieces(&bytes), MAX).await {
        Err(PutError::WrongDigest { expected, actual }) => {
            assert_eq!((expected, actual), (digest, Digest::of(&bytes)));
        }
        other => panic!("{other:?}"),
    }
    let broken = pieces(&bytes).chain(stream::iter([Err("the client left".into())])).boxed();
    assert!(matches!(store.put(Digest::of(&bytes), broken, MAX).await, Err(PutError::Source(_))));
    assert_eq!(names(store).await, before);
    assert!(matches!(store.fetch(Digest::of(&bytes)).await, Err(StoreError::NotFound(_))));
}

async fn takes_artifacts_up_to_the_limit(store: &dyn ArtifactStore) {
    let most = vec![9; MAX.as_usize()];
    let over = vec![9; MAX.as_usize() + 1];
    assert!(matches!(store.put(Digest::of(&over), pieces(&over), MAX).await, Err(PutError::TooLarge { limit: MAX })));
    assert_eq!(store.touch(Digest::of(&over)).await.unwrap(), None);
    assert_eq!(store.put(Digest::of(&most), pieces(&most), MAX).await.unwrap(), Stored::New);
}

async fn many_uploads_of_the_same_bytes_agree(store: Arc<dyn ArtifactStore>) {
    let bytes = vec![10; 50_000];
    let digest = Digest::of(&bytes);
    let uploads = (0..8).map(|_| {
        let (store, bytes) = (store.clone(), bytes.clone());
        tokio::task::spawn(async move { store.put(digest, pieces(&bytes), MAX).await.map(|_| ()) })
    });
    join_all(uploads).await.into_iter().for_each(|joined| joined.unwrap().unwrap());
    assert_eq!(store.fetch(digest).await.unwrap(), bytes);
    assert_eq!(names(&*store).await.iter().filter(|name| **name == digest).count(), 1);
}

async fn deletes_and_lists(store: &dyn ArtifactStore) {
    let bytes = vec![11; 100];
    let digest = Digest::of(&bytes);
    store.put(digest, pieces(&bytes), MAX).await.unwrap();
    let listed = store.list().await.unwrap();
    let info = listed.iter().find(|info| info.digest == digest).unwrap();
    assert_eq!(info.size_bytes, 100);
    assert!(SystemTime::now().duration_since(info.used).unwrap_or_default().as_secs() < 60);
    store.delete(digest).await.unwrap();
    store.delete(digest).await.unwrap();
    assert!(!names(store).await.contains(&digest));
    assert!(matches!(store.fetch(digest).await, Err(StoreError::NotFound(_))));
}
