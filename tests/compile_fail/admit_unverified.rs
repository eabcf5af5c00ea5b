// error: E0308
use std::sync::Arc;

use countersign::{
    receive::Unverified,
    replay::{self, Guard},
};

pub async fn admit_unverified(request: Unverified<'_>, guard: &Arc<Guard>) {
    let _ = replay::admit(request, guard).await;
}
