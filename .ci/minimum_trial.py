"""Import every module, train for seconds, and read what was written."""

import importlib
import pkgutil

import torch

import erssl

OPTIONAL = {"cv2", "detectron2", "onnx", "onnxruntime", "onnxscript", "pyarrow", "pycocotools"}

for module in pkgutil.walk_packages(erssl.__path__, "erssl."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in OPTIONAL:
            raise

small = {"backbone.name": "test_resnet", "trainer.limit_train_batches": 2, "data.num_workers": 0}
run = erssl.pretrain("mveb", data="digits", epochs=1, backbone="timm", run_dir="run", **small)
backbone = erssl.load_backbone(run.path).eval()
torch.save({"state_dict": backbone.state_dict()}, "weights.pth")
again = erssl.load_backbone("weights.pth", arch=backbone.architecture).eval()
images = torch.rand(2, 3, 32, 32)
assert torch.equal(backbone(images), again(images)), "A checkpoint was read wrongly."
same = erssl.knn(run.path).metrics["top1"] == run.metrics["knn_top1"]
assert same, "erssl knn does not give what the run gave."
print("The oldest versions work.")
