use std::{
    fs::{self, File},
    future::poll_fn,
    os::{fd::AsRawFd as _, unix::fs::FileExt as _, unix::fs::PermissionsExt as _},
    time::{Duration, Instant},
};

use proptest::prelude::*;
use tempfile::TempDir;
use tokio::{runtime::Runtime, time::timeout};

use super::*;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

fn store(memory: u64, spool: u64) -> (BodyStore, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store = BodyStore::new(BodyStoreConfig {
        memory,
        spool_dir: Some(dir.path().to_owned()),
        spool,
    });
    (store, dir)
}

/// Bytes that do not repeat with any period a mix-up of pieces or records could have.
fn sample(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15);
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

async fn fill(store: &BodyStore, body: &[u8], piece: usize) -> Result<RawBody, StoreError> {
    let mut writer = store.writer();
    for piece in body.chunks(piece) {
        writer.push(Bytes::copy_from_slice(piece)).await?;
        within_budget(store);
    }
    writer.finish().await
}

fn within_budget(store: &BodyStore) {
    assert!(store.memory_bytes() <= store.0.chunks.max + store.0.stages.max);
    assert!(store.spool_bytes() <= store.0.spool.max);
}

async fn frame(stream: &mut BodyStream) -> Option<Result<Bytes, StoreError>> {
    let frame = poll_fn(|cx| Pin::new(&mut *stream).poll_frame(cx)).await?;
    Some(frame.map(|frame| frame.into_data().unwrap()))
}

/// Reads a body to its end as an upstream connection would: each frame is dropped before the next.
async fn drain(store: &BodyStore, body: RawBody) -> Result<Vec<u8>, StoreError> {
    let len = body.len();
    let mut stream = body.into_stream();
    let mut bytes = Vec::new();
    assert_eq!(stream.is_end_stream(), len == 0);
    while let Some(piece) = frame(&mut stream).await {
        let piece = piece?;
        assert!(!piece.is_empty());
        bytes.extend_from_slice(&piece);
        let left = len - bytes.len() as u64;
        assert_eq!(stream.size_hint().exact(), Some(left));
        assert_eq!(stream.is_end_stream(), left == 0);
        within_budget(store);
    }
    Ok(bytes)
}

/// Waits for work on the blocking pool to end; everything must have been given back then.
async fn all_given_back(store: &BodyStore) {
    timeout(Duration::from_secs(20), async {
        while (store.memory_bytes(), store.spool_bytes()) != (0, 0) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert_eq!(store.spooled_bodies(), 0);
}

fn file(body: &mut RawBody) -> &File {
    body.spooled.as_ref().unwrap().file()
}

#[tokio::test]
async fn keeps_pieces_without_copying() {
    let (store, _dir) = store(MIB, MIB);
    let pieces = [sample(10, 1), sample(KEEP_MIN, 2), sample(50_000, 3)].map(Bytes::from);
    let mut writer = store.writer();
    for piece in &pieces {
        writer.push(piece.clone()).await.unwrap();
    }
    let mut stream = writer.finish().await.unwrap().into_stream();
    for piece in &pieces {
        let out = frame(&mut stream).await.unwrap().unwrap();
        assert_eq!(out.as_ptr(), piece.as_ptr());
        assert_eq!(out, piece);
    }
    assert!(frame(&mut stream).await.is_none());
}

#[tokio::test]
async fn an_empty_body_holds_nothing() {
    let (store, _dir) = store(MIB, MIB);
    let mut writer = store.writer();
    writer.push(Bytes::new()).await.unwrap();
    assert!(writer.is_empty());
    let body = writer.finish().await.unwrap();
    assert!(body.is_empty() && !body.is_spilled());
    assert_eq!(store.memory_bytes(), 0);
    assert_eq!(drain(&store, body).await.unwrap(), b"");
}

#[tokio::test]
async fn one_byte_pieces_are_gathered() {
    let (store, _dir) = store(64 * MIB, MIB);
    let body = sample(MIB as usize, 4);
    let start = Instant::now();
    let raw = fill(&store, &body, 1).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(store.memory_bytes() < 2 * MIB, "{}", store.memory_bytes());
    assert!(!raw.is_spilled());
    assert!(raw.chunks.len() < 200);
    assert_eq!(drain(&store, raw).await.unwrap(), body);
    assert_eq!(store.memory_bytes(), 0);
}

#[tokio::test]
async fn small_pieces_between_large_ones_do_not_hold_whole_buffers() {
    let (store, _dir) = store(64 * MIB, MIB);
    let mut writer = store.writer();
    for turn in 0..500 {
        let len = if turn % 2 == 0 { KEEP_MIN } else { 1 };
        writer.push(Bytes::from(sample(len, turn))).await.unwrap();
    }
    assert!(store.memory_bytes() < writer.len() * 5 / 4);
}

#[tokio::test]
async fn spilled_bytes_stand_in_no_file_in_the_clear() {
    let (store, dir) = store(64 * KIB, MIB);
    let marker = b"PATIENT-NAME-IN-THE-CLEAR;";
    let body = marker.repeat(10_000);
    let mut raw = fill(&store, &body, 1000).await.unwrap();
    assert!(raw.is_spilled());
    assert_eq!(store.spooled_bodies(), 1);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

    let file = file(&mut raw);
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let on_disk = fs::read(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    assert_eq!(on_disk.len() as u64, store.spool_bytes());
    assert!(on_disk.len() > 100_000);
    assert!(!on_disk.windows(8).any(|window| window == &marker[..8]));

    assert_eq!(drain(&store, raw).await.unwrap(), body);
    all_given_back(&store).await;
}

#[tokio::test]
async fn equal_bodies_are_sealed_under_different_keys() {
    let (store, _dir) = store(64 * KIB, MIB);
    let body = vec![0; 200_000];
    let mut images = Vec::new();
    for _ in 0..2 {
        let mut raw = fill(&store, &body, 5000).await.unwrap();
        let mut record = [0; 32];
        file(&mut raw).read_exact_at(&mut record, 0).unwrap();
        images.push(record);
    }
    assert_ne!(images[0], images[1]);
}

#[tokio::test]
async fn a_changed_moved_or_cut_file_is_corrupt() {
    let record = RECORD_MIN as usize + TAG;
    let damages: [fn(&File, usize); 4] = [
        |file, record| {
            let mut byte = [0];
            file.read_exact_at(&mut byte, record as u64 + 7).unwrap();
            file.write_all_at(&[byte[0] ^ 1], record as u64 + 7)
                .unwrap();
        },
        |file, record| {
            let mut first = vec![0; record];
            file.read_exact_at(&mut first, 0).unwrap();
            file.write_all_at(&first, record as u64).unwrap();
        },
        |file, record| file.set_len(record as u64 * 2).unwrap(),
        |file, _| file.set_len(file.metadata().unwrap().len() - 1).unwrap(),
    ];
    for damage in damages {
        let (store, _dir) = store(64 * KIB, MIB);
        let mut raw = fill(&store, &sample(200_000, 5), 5000).await.unwrap();
        damage(file(&mut raw), record);
        assert!(matches!(drain(&store, raw).await, Err(StoreError::Corrupt)));
        all_given_back(&store).await;
    }
}

#[tokio::test]
async fn the_spool_quota_is_kept() {
    let (store, _dir) = store(64 * KIB, 100 * KIB);
    let error = fill(&store, &sample(300_000, 6), 5000).await.unwrap_err();
    assert!(matches!(error, StoreError::Full { source: None }));
    all_given_back(&store).await;
    let body = sample(100_000, 7);
    let raw = fill(&store, &body, 5000).await.unwrap();
    assert_eq!(drain(&store, raw).await.unwrap(), body);
}

#[tokio::test]
async fn without_a_spool_a_full_memory_is_full() {
    let dir = tempfile::tempdir().unwrap();
    for (spool_dir, spool) in [(None, MIB), (Some(dir.path().to_owned()), 0)] {
        let store = BodyStore::new(BodyStoreConfig {
            memory: MIB,
            spool_dir,
            spool,
        });
        store.probe().unwrap();
        let body = sample(800_000, 8);
        let raw = fill(&store, &body, 10_000).await.unwrap();
        assert_eq!(drain(&store, raw).await.unwrap(), body);
        let error = fill(&store, &sample(MIB as usize, 8), 10_000)
            .await
            .unwrap_err();
        assert!(matches!(error, StoreError::Full { source: None }));
        assert_eq!(store.memory_bytes(), 0);
    }
}

#[tokio::test]
async fn small_bodies_go_on_when_large_ones_fill_everything() {
    let (store, _dir) = store(MIB, 64 * KIB);
    let mut large = store.writer();
    let mut refused = 0;
    while large.push(Bytes::from(vec![0; 8192])).await.is_ok() {
        refused += 1;
        assert!(refused < 1000);
    }
    let body = sample(30_000, 9);
    let small = fill(&store, &body, 7000).await.unwrap();
    assert!(!small.is_spilled());
    assert_eq!(drain(&store, small).await.unwrap(), body);
    drop(large);
    all_given_back(&store).await;
}

#[tokio::test]
async fn a_lost_piece_fails_the_rest_of_the_body() {
    let (store, _dir) = store(64 * KIB, 8 * KIB);
    let mut writer = store.writer();
    while writer.push(Bytes::from(vec![0; 5000])).await.is_ok() {}
    assert!(matches!(
        writer.push(Bytes::from_static(b"x")).await,
        Err(StoreError::Spool(_))
    ));
    assert!(matches!(writer.finish().await, Err(StoreError::Spool(_))));
    all_given_back(&store).await;
}

#[tokio::test]
async fn an_unusable_directory_is_a_spool_error() {
    let dir = tempfile::tempdir().unwrap();
    let not_a_directory = dir.path().join("file");
    fs::write(&not_a_directory, "").unwrap();
    for spool_dir in [not_a_directory, dir.path().join("missing")] {
        let store = BodyStore::new(BodyStoreConfig {
            memory: 64 * KIB,
            spool_dir: Some(spool_dir),
            spool: MIB,
        });
        store.probe().unwrap_err();
        let error = fill(&store, &sample(100_000, 10), 5000).await.unwrap_err();
        assert!(matches!(error, StoreError::Spool(_)), "{error:?}");
        all_given_back(&store).await;
    }
}

#[tokio::test]
async fn a_full_disk_is_full_and_passes() {
    let (store, _dir) = store(64 * KIB, MIB);
    store.probe().unwrap();
    let mut writer = store.writer();
    while store.spooled_bodies() == 0 {
        writer.push(Bytes::from(vec![0; 5000])).await.unwrap();
    }
    let Place::Spool(spool) = &mut writer.place else {
        panic!("has not spilled");
    };
    *spool.file() = File::options().write(true).open("/dev/full").unwrap();
    let error = writer.push(Bytes::from(vec![0; 5000])).await.unwrap_err();
    assert!(matches!(error, StoreError::Full { source: Some(_) }));
    drop(writer);
    all_given_back(&store).await;

    let body = sample(100_000, 11);
    let raw = fill(&store, &body, 5000).await.unwrap();
    assert_eq!(drain(&store, raw).await.unwrap(), body);
}

#[tokio::test]
async fn dropped_futures_give_everything_back() {
    let (store, _dir) = store(64 * KIB, MIB);
    // Each round polls one step further before it drops everything.
    for polls in 1..40 {
        let mut work = Box::pin(async {
            let raw = fill(&store, &sample(150_000, 12), 5000).await.unwrap();
            drain(&store, raw).await.unwrap();
        });
        for _ in 0..polls {
            let done = poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx).is_ready())).await;
            if done {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(work);
        all_given_back(&store).await;
    }
}

#[test]
fn a_push_dropped_midway_loses_the_body() {
    // One thread for the disk, so that it can be kept busy: the push cannot end before it is dropped.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    runtime.block_on(async {
        let (store, _dir) = store(64 * KIB, MIB);
        let mut writer = store.writer();
        while store.spooled_bodies() == 0 {
            writer.push(Bytes::from(vec![0; 5000])).await.unwrap();
        }
        let (release, held) = std::sync::mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || held.recv());
        {
            let mut push = Box::pin(writer.push(Bytes::from(vec![0; 500_000])));
            let pending = poll_fn(|cx| Poll::Ready(push.as_mut().poll(cx).is_pending())).await;
            assert!(pending);
        }
        drop(release);
        busy.await.unwrap().unwrap_err();
        writer.finish().await.unwrap_err();
        all_given_back(&store).await;
    });
}

#[tokio::test]
async fn charges_stay_until_the_frame_is_dropped() {
    let (store, _dir) = store(64 * KIB, MIB);
    let raw = fill(&store, &sample(100_000, 13), 30_000).await.unwrap();
    assert!(raw.is_spilled());
    let mut stream = raw.into_stream();
    let memory_frame = frame(&mut stream).await.unwrap().unwrap();
    let spool_frame = frame(&mut stream).await.unwrap().unwrap();
    assert!(poll_fn(|cx| Poll::Ready(Pin::new(&mut stream).poll_frame(cx).is_pending())).await);
    drop(stream);
    assert_eq!(
        store.memory_bytes(),
        30_000 + CHUNK_COST + store.stage_bytes()
    );
    drop(memory_frame);
    assert_eq!(store.memory_bytes(), store.stage_bytes());
    drop(spool_frame);
    all_given_back(&store).await;
}

#[tokio::test]
async fn the_next_record_waits_for_the_one_before() {
    let (store, _dir) = store(64 * KIB, MIB);
    let body = sample(100_000, 14);
    let mut stream = fill(&store, &body, 60_000).await.unwrap().into_stream();
    let first = frame(&mut stream).await.unwrap().unwrap();
    // A read that was started all the same would have ended within a few of these rounds.
    for _ in 0..200 {
        assert!(poll_fn(|cx| Poll::Ready(Pin::new(&mut stream).poll_frame(cx).is_pending())).await);
        tokio::task::spawn_blocking(|| ()).await.unwrap();
    }
    let (second, ()) = tokio::join!(frame(&mut stream), async { drop(first) });
    assert_eq!(second.unwrap().unwrap().len() as u64, store.0.record);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_hundred_bodies_at_once_are_all_intact() {
    let (store, _dir) = store(4 * MIB, 256 * MIB);
    let start = Arc::new(tokio::sync::Barrier::new(200));
    let whole = Arc::new(tokio::sync::Barrier::new(200));
    let mut tasks = tokio::task::JoinSet::new();
    for seed in 0..200 {
        let (store, start, whole) = (store.clone(), Arc::clone(&start), Arc::clone(&whole));
        tasks.spawn(async move {
            let body = sample(MIB as usize, seed);
            start.wait().await;
            let raw = fill(&store, &body, 10_000 + seed as usize * 7)
                .await
                .unwrap();
            // All are held at the same time.
            whole.wait().await;
            assert!(drain(&store, raw).await.unwrap() == body);
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    all_given_back(&store).await;
}

#[test]
fn the_budget_is_never_more_than_configured() {
    for memory in [0, 1, 1000, 3000, 64 * KIB, MIB, 64 * MIB, u64::MAX] {
        for spool in [0, MIB] {
            let (store, _dir) = store(memory, spool);
            assert_eq!(store.0.chunks.max + store.0.stages.max, memory);
            assert!((RECORD_MIN..=RECORD_MAX).contains(&store.0.record));
        }
    }
    let (store, _dir) = store(64 * MIB, MIB);
    assert!(store.0.stages.max / store.stage_bytes() >= 200);
}

#[test]
fn nothing_of_a_body_is_printed() {
    let (store, _dir) = store(MIB, MIB);
    Runtime::new().unwrap().block_on(async {
        let mut writer = store.writer();
        writer.push(Bytes::from_static(b"secret")).await.unwrap();
        assert_eq!(format!("{writer:?}"), "BodyWriter(6 bytes)");
        let raw = writer.finish().await.unwrap();
        assert_eq!(format!("{raw:?}"), "RawBody(6 bytes)");
        assert_eq!(
            format!("{:?}", raw.into_stream()),
            "BodyStream(6 bytes left)"
        );
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// In memory, half and half, or nearly all in the spool: what comes out is what went in.
    #[test]
    fn any_split_gives_the_same_bytes(
        pieces in prop::collection::vec(
            prop_oneof![0..4usize, 1..3000usize, 3000..70_000usize, Just(2048), Just(KEEP_MIN)],
            0..60,
        ),
        memory in prop_oneof![Just(8 * KIB), Just(256 * KIB), Just(16 * MIB)],
        seed: u64,
    ) {
        let (store, _dir) = store(memory, 64 * MIB);
        let body = sample(pieces.iter().sum(), seed);
        Runtime::new().unwrap().block_on(async {
            let mut writer = store.writer();
            let mut rest = Bytes::from(body.clone());
            for len in pieces {
                writer.push(rest.split_to(len)).await.unwrap();
                within_budget(&store);
            }
            let raw = writer.finish().await.unwrap();
            assert_eq!(raw.len(), body.len() as u64);
            assert!(drain(&store, raw).await.unwrap() == body);
            all_given_back(&store).await;
        });
    }
}

#[tokio::test]
async fn a_body_can_be_looked_into_as_a_whole_and_still_be_sent() {
    let (store, _dir) = store(2 * MIB, 8 * MIB);
    let first = fill(&store, &sample(MIB as usize, 1), 64 * 1024)
        .await
        .unwrap();
    let content = sample(MIB as usize, 2);
    let mut spilled = fill(&store, &content, 64 * 1024).await.unwrap();
    assert!(spilled.is_spilled());
    // No room for the copy while the other one is held.
    assert!(matches!(
        spilled.read_whole().await,
        Err(StoreError::Full { .. })
    ));
    drop(first);
    for _ in 0..2 {
        let whole = spilled.read_whole().await.unwrap();
        assert_eq!(whole.as_ref(), content);
        within_budget(&store);
    }
    assert_eq!(drain(&store, spilled).await.unwrap(), content);
    let mut small = fill(&store, b"in one piece", 64).await.unwrap();
    assert_eq!(small.read_whole().await.unwrap().as_ref(), b"in one piece");
    drop(small);
    let mut empty = fill(&store, b"", 64).await.unwrap();
    assert_eq!(empty.read_whole().await.unwrap().as_ref(), b"");
    drop(empty);
    all_given_back(&store).await;
}
