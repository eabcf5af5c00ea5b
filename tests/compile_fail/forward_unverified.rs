// error: E0308
use countersign::{forward, receive::Unverified, upstream::Upstream};

pub async fn forward_unverified(
    request: Unverified<'_>,
    upstreams: &[std::sync::Arc<Upstream>],
    identity: &forward::Identity,
) {
    let _ = forward::send(request, upstreams, identity).await;
}
