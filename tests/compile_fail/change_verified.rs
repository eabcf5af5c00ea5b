// error: E0616
use countersign::{body::RawBody, verify::Verified};

pub fn change_verified(request: &mut Verified<'_>, body: RawBody) {
    request.body = body;
}
