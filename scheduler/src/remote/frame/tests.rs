use super::*;
use dunlin_api::ByteSize;
use proptest::{collection::vec, prelude::*};
use std::time::Duration;

fn key() -> impl Strategy<Value = Key> {
    (any::<u128>(), any::<u8>()).prop_map(|(id, attempt)| Key { id, attempt })
}

fn fields() -> impl Strategy<Value = HeaderMap> {
    let field = ("[a-z][a-z0-9-]{0,20}", vec(0x20_u8..0x7f, 0..60));
    vec(field, 0..20).prop_map(|fields| {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(HeaderName::try_from(name).unwrap(), HeaderValue::from_bytes(&value).unwrap());
        }
        map
    })
}

fn load() -> impl Strategy<Value = Load> {
    (any::<u32>(), any::<u32>()).prop_map(|(in_flight, slots)| Load { in_flight, slots })
}

fn error() -> impl Strategy<Value = InvokeError> {
    use InvokeError as E;
    let time = || any::<u32>().prop_map(|ms| Duration::from_millis(ms.into()));
    let size = || any::<u64>().prop_map(ByteSize);
    prop_oneof![
        ".*".prop_map(E::NoRoute),
        ".*".prop_map(E::Method),
        "[a-z]{1,63}".prop_map(|name| E::NoFunction(name.parse().unwrap())),
        ".*".prop_map(E::BadRequest),
        size().prop_map(E::BodyTooLarge),
        time().prop_map(E::BodyTimeout),
        any::<u32>().prop_map(|limit| E::Concurrency { limit }),
        ".*".prop_map(E::Trap),
        ".*".prop_map(E::NoResponse),
        ".*".prop_map(E::BadResponse),
        time().prop_map(E::Cpu),
        size().prop_map(E::Memory),
        time().prop_map(E::Deadline),
        load().prop_map(E::Busy),
        Just(E::Draining),
        ".*".prop_map(E::NotReady),
        ".*".prop_map(E::Internal),
    ]
}

fn request<'a>(texts: &'a [String; 5], fields: &HeaderMap, body: &[u8], sent_unix_us: u64) -> Invoke<'a> {
    Invoke {
        gateway: &texts[0],
        function: &texts[1],
        revision: &texts[2],
        sent_unix_us,
        accept_by_us: 250_000,
        deadline_us: 30_000_000,
        trace: (1, 2, 3),
        may_load: true,
        streamed: body.len() > 100,
        method: &texts[3],
        uri: &texts[4],
        fields: fields.len() as u32,
        body: body.len() as u32,
    }
}

/// Reads a frame as whatever it says it is, to the end.
fn read_all(payload: &Bytes) -> Result<(), Unreadable> {
    let frame = Frame::read(payload)?;
    match frame.kind {
        Kind::Invoke => frame.parts::<Invoke<'_>>().and_then(|(h, tail)| tail.split(h.fields, h.body)).map(drop),
        Kind::Answer => frame.parts::<Answer>().and_then(|(h, tail)| tail.split(h.fields, h.body)).map(drop),
        Kind::Chunk => frame.parts::<Chunk>().and_then(|(h, tail)| tail.split(0, h.body)).map(drop),
        Kind::End => frame.parts::<End>().and_then(|(h, tail)| tail.split(h.fields, 0)).map(drop),
        Kind::Accept => frame.head::<Accept>().map(drop),
        Kind::Refused => frame.head::<Refused>().map(drop),
        Kind::Failed => frame.head::<Failed>().map(drop),
        Kind::Progress => frame.head::<Progress>().map(drop),
        Kind::Credit => frame.head::<Credit>().map(drop),
        Kind::Cancel => frame.head::<Cancel>().map(drop),
        Kind::Abort => frame.head::<Abort<'_>>().map(drop),
        Kind::Ping => frame.head::<Ping>().map(drop),
        Kind::Pong => frame.head::<Pong>().map(drop),
        Kind::Prepare => frame.head::<Prepare<'_>>().map(drop),
        Kind::Ready => frame.head::<Ready>().map(drop),
        Kind::Unprepared => frame.head::<Unprepared<'_>>().map(drop),
        Kind::Unreadably => frame.head::<Unreadably<'_>>().map(drop),
    }
}

proptest! {
    #[test]
    fn a_call_is_read_as_it_was_written(
        key in key(), fields in fields(), body in vec(any::<u8>(), 0..2_000), sent in any::<u64>(),
        texts in [".*", ".*", ".*", ".*", ".*"],
    ) {
        let invoke = request(&texts, &fields, &body, sent);
        let payload = encode_with(key, &invoke, &fields, &body);
        let frame = Frame::read(&payload).unwrap();
        let (read, tail) = frame.parts::<Invoke<'_>>().unwrap();
        prop_assert_eq!((frame.kind, frame.key, &read), (Kind::Invoke, key, &invoke));
        let (read_fields, read_body) = tail.split(read.fields, read.body).unwrap();
        prop_assert_eq!((read_fields, read_body), (fields, Bytes::from(body)));
    }

    #[test]
    fn every_error_is_read_as_it_was_written(key in key(), load in load(), error in error(), started in any::<bool>()) {
        let failed = Failed { load, started, error: error.clone() };
        let payload = encode(key, &failed);
        prop_assert_eq!(Frame::read(&payload).unwrap().head::<Failed>().unwrap(), failed);
        let refused = Refused { load, why: error };
        let payload = encode(key, &refused);
        prop_assert_eq!(Frame::read(&payload).unwrap().head::<Refused>().unwrap(), refused);
    }

    #[test]
    fn a_chunk_is_read_as_it_was_written(key in key(), seq in any::<u32>(), body in vec(any::<u8>(), 0..2_000)) {
        let chunk = Chunk { seq, body: body.len() as u32 };
        let payload = encode_with(key, &chunk, &HeaderMap::new(), &body);
        let frame = Frame::read(&payload).unwrap();
        let (read, tail) = frame.parts::<Chunk>().unwrap();
        prop_assert_eq!((frame.key, read), (key, chunk));
        prop_assert_eq!(tail.split(0, read.body).unwrap().1, Bytes::from(body));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..300), kind in 0_u8..20) {
        let _ = read_all(&bytes.clone().into());
        let mut framed = vec![VERSION, kind];
        framed.extend(bytes);
        let _ = read_all(&framed.into());
    }

    #[test]
    fn a_frame_cut_short_or_made_longer_is_an_error(
        key in key(), fields in fields(), body in vec(any::<u8>(), 0..200), cut in any::<prop::sample::Index>(),
        error in error(),
    ) {
        let texts = ["gw", "f", "0123456789ab", "GET", "/"].map(String::from);
        let invoke = request(&texts, &fields, &body, 1);
        let failed = Failed { load: Load::default(), started: true, error };
        for payload in [encode_with(key, &invoke, &fields, &body), encode(key, &failed)] {
            prop_assert_eq!(read_all(&payload), Ok(()));
            prop_assert!(read_all(&payload.slice(..cut.index(payload.len()))).is_err());
            let longer: Bytes = payload.iter().copied().chain([0]).collect::<Vec<_>>().into();
            prop_assert!(read_all(&longer).is_err());
        }
    }
}

#[test]
fn says_what_is_wrong_with_a_frame_and_which_call_it_was() {
    let key = Key { id: 7, attempt: 2 };
    let mut bytes = encode(key, &Ping).to_vec();
    assert_eq!(bytes.len(), PREFIX);
    bytes[1] = 200;
    assert_eq!(Frame::read(&bytes.clone().into()).unwrap_err(), Unreadable::Kind(200));
    bytes[0] = 2;
    assert_eq!(Frame::read(&bytes.clone().into()).unwrap_err(), Unreadable::Version(2));
    assert_eq!(key_of(&bytes), Some(key));
    bytes[1] = Kind::Unreadably as u8;
    assert_eq!(Frame::read(&bytes.into()).unwrap().kind, Kind::Unreadably);
    assert_eq!(Frame::read(&Bytes::from_static(b"\x01\x01")).unwrap_err(), Unreadable::Malformed);
}
