import hashlib, os, tempfile
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

def only_verified(get_response):
    return lambda request: (
        get_response(request) if "Countersign-Verified" in request.headers else HttpResponse(status=403))

@csrf_exempt
def carevalidate(request):
    digest = hashlib.sha256(request.body).hexdigest()  # the sender's bytes
    with tempfile.NamedTemporaryFile(dir=os.environ.get("INBOX", "inbox"), suffix=".part", delete=False) as file:
        file.write(request.body)
        file.flush()
        os.fsync(file.fileno())
    os.rename(file.name, os.path.join(os.path.dirname(file.name), digest))
    return HttpResponse(status=204)

urlpatterns = [path("webhooks/carevalidate", carevalidate)]
settings.configure(ROOT_URLCONF=__name__, MIDDLEWARE=[f"{__name__}.only_verified"],
    ALLOWED_HOSTS=["hooks.example.org"], DATA_UPLOAD_MAX_MEMORY_SIZE=64 * 1024 * 1024)
application = get_wsgi_application()
