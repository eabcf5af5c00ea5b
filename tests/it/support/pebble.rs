//! An authority that gives certificates by ACME: Pebble, with a name server that finds every name on this machine.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use tempfile::TempDir;

use super::tls::{self, Identity};

/// An account that the authority knows, if it wants to know any.
pub(crate) const EAB_KEY_ID: &str = "kid-1";
pub(crate) const EAB_KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

/// Where it listens, and by what it is known. Keeps its addresses over a restart.
pub(crate) struct Authority {
    folder: TempDir,
    port: u16,
    management: u16,
    names: u16,
    running: Vec<Child>,
}

/// What it is like.
pub(crate) struct Manner {
    /// Where it tries handshakes.
    pub(crate) tls_port: u16,
    /// How long a certificate is valid.
    pub(crate) seconds: u32,
    /// Whether it gives certificates only to those whom it knows.
    pub(crate) wants_account: bool,
}

fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    free.local_addr().unwrap().port()
}

impl Authority {
    pub(crate) fn start(manner: &Manner) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let Identity {
            certificate_pem,
            key_pem,
        } = tls::authority().issue_local();
        fs::write(folder.path().join("cert.pem"), certificate_pem).unwrap();
        fs::write(folder.path().join("key.pem"), key_pem).unwrap();
        fs::write(
            folder.path().join("ca.pem"),
            &tls::authority().certificate_pem,
        )
        .unwrap();
        let mut authority = Self {
            folder,
            port: free_port(),
            management: free_port(),
            names: free_port(),
            running: Vec::new(),
        };
        authority.run(manner);
        authority
    }

    /// Begins anew, with other certificates and without an account.
    pub(crate) fn restart(&mut self, manner: &Manner) {
        self.stop();
        self.run(manner);
    }

    fn run(&mut self, manner: &Manner) {
        let config = serde_json::json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{}", self.port),
            "managementListenAddress": format!("127.0.0.1:{}", self.management),
            "certificate": "cert.pem",
            "privateKey": "key.pem",
            "httpPort": 1,
            "tlsPort": manner.tls_port,
            "ocspResponderURL": "",
            "certificateValidityPeriod": manner.seconds,
            "externalAccountBindingRequired": manner.wants_account,
            "externalAccountMACKeys": { EAB_KEY_ID: EAB_KEY },
        }});
        let path = self.folder.path().join("pebble.json");
        fs::write(path, config.to_string()).unwrap();
        let names = format!("127.0.0.1:{}", self.names);
        let answer_all = [
            "-http01",
            "",
            "-https01",
            "",
            "-tlsalpn01",
            "",
            "-defaultIPv6",
            "",
        ];
        self.spawn(
            Command::new("pebble-challtestsrv")
                .args(["-dns01", &names, "-management", "127.0.0.1:0"])
                .args(answer_all),
            "Starting management server",
        );
        self.spawn(
            Command::new("pebble")
                .args(["-strict", "-config", "pebble.json", "-dnsserver", &names])
                .env("PEBBLE_VA_NOSLEEP", "1")
                .env("PEBBLE_AUTHZREUSE", "0"),
            "ACME directory available",
        );
    }

    /// Starts a program and waits until it says that.
    fn spawn(&mut self, command: &mut Command, says: &str) {
        let mut child = command
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("Pebble, which the tests need: {error}"));
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        self.running.push(child);
        let mut seen = Vec::new();
        let ready = lines.by_ref().map_while(Result::ok).any(|line| {
            let says_it = line.contains(says);
            seen.push(line);
            says_it
        });
        assert!(ready, "{seen:#?}");
        thread::spawn(move || lines.for_each(drop));
    }

    pub(crate) fn stop(&mut self) {
        for mut child in self.running.drain(..) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Its directory.
    pub(crate) fn url(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.port)
    }

    /// The file of those who vouch for the directory.
    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// The file of those who vouch for the certificates that it gives.
    pub(crate) fn root(&self) -> PathBuf {
        let path = self.folder.path().join("root.pem");
        let fetched = Command::new("curl")
            .args(["-sSf", "--cacert"])
            .arg(self.ca())
            .arg("-o")
            .arg(&path)
            .arg(format!("https://127.0.0.1:{}/roots/0", self.management))
            .status()
            .unwrap();
        assert!(fetched.success());
        path
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The serial number of the certificate that is shown for a name, if OpenSSL finds it good by these authorities.
pub(crate) fn shown(port: u16, name: &str, root: &Path) -> Result<String, String> {
    let script = format!(
        "openssl s_client -connect 127.0.0.1:{port} -servername {name} -verify_hostname {name} -verify_return_error -CAfile \"$0\" \
         </dev/null 2>&1"
    );
    let output = Command::new("sh")
        .arg("-c")
        .arg(script)
        .arg(root)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        return Err(text);
    }
    let mut x509 = Command::new("openssl")
        .args(["x509", "-noout", "-serial"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut x509.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let serial = x509.wait_with_output().unwrap().stdout;
    Ok(String::from_utf8(serial).unwrap().trim().to_owned())
}
