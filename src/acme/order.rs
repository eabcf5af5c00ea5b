//! One certificate: account, order, proofs, signing.

use std::{collections::HashMap, fs, io, sync::Arc, time::Duration};

use anyhow::Context as _;
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, ExternalAccountKey,
    Identifier, NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::{
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};

use super::{Certificates, Held, cache, directory::Client};
use crate::{config::AcmeConfig, reject::Chain};

/// How long the authority may take to try the proofs, and to sign.
const POLL_TIME_MAX: Duration = Duration::from_secs(60);

/// What the authority says of an account that it has forgotten.
const NO_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";

/// Obtains a certificate and keeps it. `Ok` has it even if it could not be kept; that is told in the log.
pub(super) async fn obtain(
    config: &AcmeConfig,
    certificates: &Certificates,
) -> anyhow::Result<Held> {
    let names: Vec<_> = config
        .domains
        .iter()
        .cloned()
        .map(Identifier::Dns)
        .collect();
    let mut order = account(config)
        .await?
        .new_order(&NewOrder::new(&names))
        .await;
    if let Err(instant_acme::Error::Api(problem)) = &order
        && problem.r#type.as_deref() == Some(NO_ACCOUNT)
    {
        tracing::warn!("the authority does not know the account any more; another is made");
        let path = cache::account(config);
        fs::remove_file(&path).with_context(|| path.display().to_string())?;
        order = account(config)
            .await?
            .new_order(&NewOrder::new(&names))
            .await;
    }
    let mut order = order.context("the authority takes no order")?;
    let shown = Shown(certificates);
    prove(&mut order, &shown).await?;
    let policy = RetryPolicy::new().timeout(POLL_TIME_MAX);
    match order.poll_ready(&policy).await {
        Ok(OrderStatus::Ready) => {}
        // The order says that it failed, each authorization why.
        Ok(_) | Err(instant_acme::Error::Api(_)) => return Err(refusal(&mut order).await),
        Err(error) => return Err(error).context("the authority does not come to an end"),
    }
    drop(shown);
    let key = KeyPair::generate().context("no key can be made")?;
    let mut params = CertificateParams::new(config.domains.clone()).context("no request")?;
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key).context("no request")?;
    let finalized = order.finalize_csr(request.der()).await;
    finalized.context("the authority refuses to sign")?;
    let chain = order.poll_certificate(&policy).await;
    let chain = chain.context("the authority does not sign")?;
    let text = format!("{}{chain}", key.serialize_pem());
    let held = Held::parse(text.as_bytes()).context("the authority's answer is of no use")?;
    let path = cache::certificate(config);
    if let Err(error) = cache::write(&path, text.as_bytes()) {
        tracing::error!(error = %Chain(&*error), "the certificate is not kept: a restart has to obtain another");
    }
    Ok(held)
}

/// The account that was kept, or a new one.
async fn account(config: &AcmeConfig) -> anyhow::Result<Account> {
    let path = cache::account(config);
    let client = || {
        let ca = config.ca.clone();
        Account::builder_with_http(Box::new(Client { ca }))
    };
    match fs::read(&path) {
        Ok(text) => {
            let kept: AccountCredentials = serde_json::from_slice(&text).with_context(|| {
                let path = path.display();
                format!("{path}: is no account; remove it, and a new one is made")
            })?;
            let account = client().from_credentials(kept).await;
            return account.context("the authority's directory is not read");
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(error).with_context(|| format!("{}: cannot be read", path.display()));
        }
    }
    let contact: Vec<_> = config.contact.iter().map(String::as_str).collect();
    let wanted = NewAccount {
        contact: &contact,
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let external = match &config.external_account {
        None => None,
        Some(external) => {
            let key = zeroize::Zeroizing::new(cache::account_key(external)?);
            Some(ExternalAccountKey::new(external.id.clone(), &key))
        }
    };
    let made = client().create(&wanted, config.directory.clone(), external.as_ref());
    let (account, kept) = made.await.context("the authority makes no account")?;
    let text = zeroize::Zeroizing::new(serde_json::to_vec(&kept)?);
    // Else each attempt would make another one.
    cache::write(&path, &text)?;
    tracing::info!(
        account = account.id(),
        "an account was made at the authority"
    );
    Ok(account)
}

/// Proofs that are shown as long as this lives.
struct Shown<'c>(&'c Certificates);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.0.proofs.store(Arc::default());
    }
}

/// Makes the proofs, shows them and asks the authority to look.
async fn prove(order: &mut Order, shown: &Shown<'_>) -> anyhow::Result<()> {
    let mut proofs = HashMap::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization =
            authorization.context("the authority does not say what to prove")?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let challenge = authorization.challenge(ChallengeType::TlsAlpn01);
        let mut challenge = challenge.context("the authority takes no proof by TLS-ALPN-01")?;
        let name = challenge.identifier().to_string();
        let proof = proof(&name, challenge.key_authorization().digest().as_ref())
            .context("no proof can be made")?;
        proofs.insert(name, Arc::new(proof));
        shown.0.proofs.store(Arc::new(proofs.clone()));
        let ready = challenge.set_ready().await;
        ready.context("the authority does not try the proof")?;
    }
    Ok(())
}

/// A certificate by ourselves that holds the digest (RFC 8737, section 3).
fn proof(name: &str, digest: &[u8]) -> anyhow::Result<CertifiedKey> {
    let key = KeyPair::generate().context("no key can be made")?;
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let certificate = params.self_signed(&key)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let key = provider.key_provider.load_private_key(key)?;
    // Not `from_der`, which compares the two: it takes no certificate with such an extension.
    Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
}

/// Why the authority did not accept the proofs, name by name.
async fn refusal(order: &mut Order) -> anyhow::Error {
    let mut reasons = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else {
            continue;
        };
        let name = state.identifier().to_string();
        let problems = state
            .challenges
            .iter()
            .filter_map(|challenge| challenge.error.as_ref());
        reasons.extend(problems.map(|problem| format!("{name}: {problem}")));
    }
    if reasons.is_empty() {
        reasons.push("it does not say why".to_owned());
    }
    anyhow::anyhow!(
        "the authority did not find the proof: {}",
        reasons.join("; ")
    )
}
