//! A gateway inside the test's own process, with a clock of the test's own: recorded requests were signed in other years.
//!
//! All of it is the product: configuration, sockets, TLS, pipeline. Only the clock is replaced, and the command around it left out.

use std::{
    fs,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicI64, Ordering},
    },
};

use countersign::{
    assemble,
    clock::{Clock, UnixTime},
    config::{self, Flags, Source},
    listen::Passed,
    server::Server,
    telemetry::LogSink,
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{client::Door, runtime, tls, wire::Address};

/// What stands for the gateway's own folder in any piece of configuration.
pub(crate) const FOLDER: &str = "$DIR";

#[derive(Clone, Default)]
struct TestClock(Arc<AtomicI64>);

impl Clock for TestClock {
    fn now(&self) -> UnixTime {
        UnixTime::from_secs(self.0.load(Ordering::SeqCst))
    }
}

/// A gateway that runs until it is dropped.
pub(crate) struct Inside {
    clock: TestClock,
    door: Door,
    stopping: CancellationToken,
    hurry: CancellationToken,
    _folder: TempDir,
}

impl Inside {
    /// Starts one that listens on a free port of 127.0.0.1. `files` are written into its folder, `$DIR`.
    pub(crate) fn start(config: &str, speaks_tls: bool, files: &[(String, Vec<u8>)]) -> Self {
        static SINK: LazyLock<LogSink> = LazyLock::new(|| LogSink::to(std::io::sink()).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        for (name, content) in files {
            write(name, content);
        }
        if speaks_tls {
            // As the command does: whoever asks rustls for a provider gets this one.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
            let identity = tls::authority().issue_local();
            write("cert.pem", identity.certificate_pem.as_bytes());
            write("key.pem", identity.key_pem.as_bytes());
        }
        let config = config.replace(FOLDER, folder.path().to_str().unwrap());
        write("countersign.toml", config.as_bytes());
        let source = Source::File(folder.path().join("countersign.toml"));
        let config = config::load(&source, &[], &Flags::default())
            .unwrap_or_else(|errors| panic!("{errors}"))
            .config;
        let (mut gateway, _) = assemble::gateway(&config, SINK.clone()).unwrap();
        let clock = TestClock::default();
        gateway.clock = Box::new(clock.clone());
        let _entered = runtime().enter();
        let server = Server::bind(&config, Arc::new(gateway), Passed::default()).unwrap();
        let door = Door {
            address: Address::parse(&server.addresses()[0]),
            tls: speaks_tls,
        };
        let (stopping, hurry) = (server.stopping(), CancellationToken::new());
        drop(runtime().spawn(server.run(hurry.clone())));
        Self {
            clock,
            door,
            stopping,
            hurry,
            _folder: folder,
        }
    }

    /// `[server]` for [`Self::start`]; `lines` are further keys.
    pub(crate) fn server(speaks_tls: bool, lines: &str) -> String {
        let tls = format!(
            "[server.tls]\ncertificate = \"{FOLDER}/cert.pem\"\nprivate_key = \"{FOLDER}/key.pem\"\n"
        );
        format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nadmin = \"off\"\n{lines}\n{}[limits]\nspool_dir = \"{FOLDER}\"\n\
             [log]\nlevel = \"error\"\n",
            if speaks_tls { &tls } else { "" }
        )
    }

    pub(crate) fn door(&self) -> &Door {
        &self.door
    }

    /// What its clock shows from now on, in seconds.
    pub(crate) fn set_clock(&self, now: i64) {
        self.clock.0.store(now, Ordering::SeqCst);
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.stopping.cancel();
        self.hurry.cancel();
    }
}
