// error: E0308
use countersign::{forward, upstream::Upstream, verify::Verified};

pub async fn forward_verified(
    request: Verified<'_>,
    upstreams: &[std::sync::Arc<Upstream>],
    identity: &forward::Identity,
) {
    let _ = forward::send(request, upstreams, identity).await;
}
